package api

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/services/region/internal/api/query"
	"github.com/vmhost-project/vmhost/services/region/internal/encoded"
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
	return typed[T](method, messages, next)
}

func typed[T proto.Message](method string, messages []proto.Message, next string) ([]T, string, error) {
	page := make([]T, len(messages))
	for i, m := range messages {
		var ok bool
		if page[i], ok = m.(T); !ok {
			return nil, "", fmt.Errorf("list of %s holds a %T", method, m)
		}
	}
	return page, next, nil
}

// answerSorted answers a list request by name unless it says otherwise. items are
// the resources of the snapshot behind a name, in the order of names, so that a
// page by name costs no more than what is on it. Answer makes the answer of a page.
// Where only its bytes are wanted, it is made of nothing and not sent.
func answerSorted[T, A proto.Message](ctx context.Context, b *base, method string, req orderedRequest, items func(v *store.View, after string) iter.Seq[query.Item], answer func([]T, string) A) (A, error) {
	var (
		kind T
		none A
	)
	l, err := b.pager.Compile(method, kind.ProtoReflect().Descriptor(), req, req.GetOrderBy(), "name")
	if err != nil {
		return none, err
	}
	v, err := b.store.View(ctx)
	if err != nil {
		return none, err
	}
	after, sorted := l.After()
	if sorted && encoded.Wanted(ctx) {
		list, next := fieldsOf[T](none)
		page, able, err := l.CutEncoded(protowire.EncodeTag(list, protowire.BytesType), items(v, after))
		if err != nil {
			return none, err
		}
		if able {
			if page.Next != "" {
				token := protowire.AppendTag(nil, next, protowire.BytesType)
				page.Parts = append(page.Parts, protowire.AppendString(token, page.Next))
			}
			encoded.Answer(ctx, encoded.Join(page.Parts...))
			return answer(nil, ""), nil
		}
	}
	var (
		messages []proto.Message
		next     string
	)
	if sorted {
		messages, next = l.Cut(items(v, after))
	} else {
		messages, next = l.Page(slices.Collect(items(v, "")))
	}
	page, next, err := typed[T](method, messages, next)
	if err != nil {
		return none, err
	}
	return answer(page, next), nil
}

// fieldsOf are the fields of an answer that hold its resources and the token of the
// next page.
func fieldsOf[T proto.Message](answer proto.Message) (list, next protowire.Number) {
	var kind T
	fields := answer.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if m := fields.Get(i).Message(); m != nil && m.FullName() == kind.ProtoReflect().Descriptor().FullName() {
			list = fields.Get(i).Number()
		}
	}
	return list, fields.ByName("next_page_token").Number()
}

// itemsAfter are the resources of one family behind a name, in order. The record
// that show gets is read for it alone. Encode, where there is one, appends what
// show shows.
func itemsAfter[T proto.Message](f store.Family[T], collection string, show func(v *store.View, r store.Record[T]) proto.Message, encode func(b []byte, v *store.View, r store.Stored[T]) ([]byte, error)) func(*store.View, string) iter.Seq[query.Item] {
	return func(v *store.View, after string) iter.Seq[query.Item] {
		return func(yield func(query.Item) bool) {
			for id, r := range f.EachAfter(v, strings.TrimPrefix(after, collection)) {
				item := query.Item{Name: collection + id, Build: func() proto.Message { return show(v, r.Read()) }}
				if encode != nil {
					item.Append = func(b []byte) ([]byte, error) { return encode(b, v, r) }
				}
				if !yield(item) {
					return
				}
			}
		}
	}
}

// inOrder is two sequences, each in the order of names, as one.
func inOrder(a, b iter.Seq[query.Item]) iter.Seq[query.Item] {
	return func(yield func(query.Item) bool) {
		next, stop := iter.Pull(b)
		defer stop()
		other, more := next()
		for item := range a {
			for ; more && other.Name < item.Name; other, more = next() {
				if !yield(other) {
					return
				}
			}
			if !yield(item) {
				return
			}
		}
		for ; more; other, more = next() {
			if !yield(other) {
				return
			}
		}
	}
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
