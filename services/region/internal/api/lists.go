package api

import (
	"context"
	"fmt"
	"iter"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/services/region/internal/api/query"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// orderedRequest is a list request that can say in which order.
type orderedRequest interface {
	query.Request
	GetOrderBy() string
}

// answerList answers a list request: items are all resources of the snapshot.
func answerList[T proto.Message](ctx context.Context, b *base, method string, req orderedRequest, byDefault string, items func(*store.View) iter.Seq[query.Item]) ([]T, string, error) {
	return answerOrdered[T](ctx, b, method, req, req.GetOrderBy(), byDefault, items)
}

func answerOrdered[T proto.Message](ctx context.Context, b *base, method string, req query.Request, orderBy, byDefault string, items func(*store.View) iter.Seq[query.Item]) ([]T, string, error) {
	var kind T
	l, err := b.pager.Compile(method, kind.ProtoReflect().Descriptor(), req, orderBy, byDefault)
	if err != nil {
		return nil, "", err
	}
	view, err := b.store.View(ctx)
	if err != nil {
		return nil, "", err
	}
	var all []query.Item
	for item := range items(view) {
		all = append(all, item)
	}
	messages, next := l.Page(all)
	page := make([]T, len(messages))
	for i, m := range messages {
		var ok bool
		if page[i], ok = m.(T); !ok {
			return nil, "", fmt.Errorf("list of %s holds a %T", method, m)
		}
	}
	return page, next, nil
}

// itemsOf are the resources of one family, shown by show.
func itemsOf[T proto.Message](f store.Family[T], collection string, show func(v *store.View, r store.Record[T]) proto.Message) func(*store.View) iter.Seq[query.Item] {
	return func(v *store.View) iter.Seq[query.Item] {
		return func(yield func(query.Item) bool) {
			for id, r := range f.All(v) {
				if !yield(query.Item{Name: collection + id, Build: func() proto.Message { return show(v, r) }}) {
					return
				}
			}
		}
	}
}
