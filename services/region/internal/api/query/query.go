// Package query answers lists: it compiles AIP-160 filters and AIP-132 orders
// over a resource's message, and cuts what is found into pages whose tokens are
// authenticated.
//
// A filter is checked against the message's descriptor when it is compiled, so
// that evaluating it cannot fail. Pages are cut by the place of the last
// resource in the order, not by counting: what is added or removed between two
// pages makes no other resource appear twice or not at all. The package holds
// no state but the key of the tokens and reads no store; goroutines that it starts end with the call.
package query

import (
	"bytes"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/vmhost-project/vmhost/pkg/apierror"
)

// DefaultPageSize is the size of a page when the request does not say.
const DefaultPageSize = 50

// Request is what every list request of the API says.
type Request interface {
	GetPageSize() int32
	GetPageToken() string
	GetFilter() string
}

// Item is a resource that may be asked for.
type Item struct {
	// Name is its resource name, unique in the list.
	Name string
	// Build makes the resource. It is called only when the filter, the order or
	// the page needs it.
	Build func() proto.Message
	// Append appends the encoded resource, which is what Build makes, and nothing
	// when there is none. Nil: what Build makes is encoded.
	Append func(b []byte) ([]byte, error)
}

// List is a compiled list request.
type List struct {
	filter *Filter
	order  *Order
	size   int
	after  cursor
	sign   func(cursor) string
}

// Compile checks a list request over resources of one kind. byName is the order
// when the request names none.
func (p *Pager) Compile(method string, kind protoreflect.MessageDescriptor, req Request, orderBy, byDefault string) (*List, error) {
	filter, err := CompileFilter(kind, req.GetFilter())
	if err != nil {
		return nil, apierror.InvalidField("filter", "%s", err)
	}
	if orderBy == "" {
		orderBy = byDefault
	}
	order, err := CompileOrder(kind, orderBy)
	if err != nil {
		return nil, apierror.InvalidField("order_by", "%s", err)
	}
	l := &List{filter: filter, order: order, size: int(req.GetPageSize())}
	if l.size == 0 {
		l.size = DefaultPageSize
	}
	bound := []string{method, req.GetFilter(), orderBy}
	l.sign = func(c cursor) string { return p.sign(bound, c) }
	if req.GetPageToken() != "" {
		if l.after, err = p.verify(bound, req.GetPageToken()); err != nil {
			return nil, apierror.InvalidField("page_token", "%s", err).
				WithHint("send the next_page_token of the page before, with the same filter and order_by, or leave it out to begin again")
		}
		if len(l.after.Keys) != len(order.fields) {
			return nil, apierror.InvalidField("page_token", "is of another list")
		}
	}
	return l, nil
}

// entry is an item on its way through a list.
type entry struct {
	cursor
	item    Item
	message proto.Message
}

// Page picks the resources of the page and the token of the next one, empty at
// the end.
func (l *List) Page(items []Item) ([]proto.Message, string) {
	entries := make([]entry, 0, len(items))
	for _, item := range items {
		e := entry{item: item, cursor: cursor{Name: item.Name}}
		if !l.order.onlyName() {
			e.message = item.Build()
			if e.message == nil || !l.filter.Match(e.message) {
				continue
			}
			e.Keys = l.order.keys(e.message)
		} else {
			e.Keys = l.order.nameKeys(item.Name)
		}
		if l.after.Name != "" && l.order.compare(e.cursor, l.after) <= 0 {
			continue
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b entry) int { return l.order.compare(a.cursor, b.cursor) })

	var page []proto.Message
	var last cursor
	for _, e := range entries {
		if e.message == nil {
			e.message = e.item.Build()
			if e.message == nil || !l.filter.Match(e.message) {
				continue
			}
		}
		if len(page) == l.size {
			return page, l.sign(last)
		}
		page, last = append(page, e.message), e.cursor
	}
	return page, ""
}

// cursor is a place in an order: the sort keys and the name of a resource.
type cursor struct {
	Keys [][]byte `json:"k"`
	Name string   `json:"n"`
}

// compare orders two places; the name decides between equal keys.
func (o *Order) compare(a, b cursor) int {
	for i, f := range o.fields {
		c := bytes.Compare(a.Keys[i], b.Keys[i])
		if f.descending {
			c = -c
		}
		if c != 0 {
			return c
		}
	}
	return strings.Compare(a.Name, b.Name)
}
