package libvirt

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// xmlText is XML that is changed in places and is otherwise kept to the letter: a
// domain's definition may have parts that no model of ours knows.
type xmlText struct {
	text  string
	root  *xmlNode
	edits []xmlEdit
}

// xmlNode is one element, by where it is in the text.
type xmlNode struct {
	name         string // without prefix
	prefix       string
	attrs        []xml.Attr
	from, opened int // the start tag
	to           int // the end of the element
	changed      bool
	children     []*xmlNode
}

type xmlEdit struct {
	from, to int
	text     string
}

// readXMLText reads the elements of a text.
func readXMLText(text string) (*xmlText, error) {
	decoder := xml.NewDecoder(strings.NewReader(text))
	out := &xmlText{text: text}
	var open []*xmlNode
	for {
		from := int(decoder.InputOffset())
		token, err := decoder.RawToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read the domain's XML: %w", err)
		}
		switch t := token.(type) {
		case xml.StartElement:
			n := &xmlNode{name: t.Name.Local, prefix: t.Name.Space, attrs: slices.Clone(t.Attr), from: from, opened: int(decoder.InputOffset())}
			if len(open) > 0 {
				open[len(open)-1].children = append(open[len(open)-1].children, n)
			} else if out.root == nil {
				out.root = n
			}
			open = append(open, n)
		case xml.EndElement:
			if len(open) == 0 {
				return nil, errors.New("read the domain's XML: an element ends that did not begin")
			}
			open[len(open)-1].to = int(decoder.InputOffset())
			open = open[:len(open)-1]
		default:
		}
	}
	if out.root == nil || len(open) > 0 {
		return nil, errors.New("read the domain's XML: it is cut short")
	}
	return out, nil
}

// all are the elements under n by a path of names.
func (n *xmlNode) all(path ...string) []*xmlNode {
	out := []*xmlNode{n}
	for _, name := range path {
		var next []*xmlNode
		for _, parent := range out {
			for _, c := range parent.children {
				if c.name == name {
					next = append(next, c)
				}
			}
		}
		out = next
	}
	return out
}

// first is the first of all; nil when there is none.
func (n *xmlNode) first(path ...string) *xmlNode {
	if list := n.all(path...); len(list) > 0 {
		return list[0]
	}
	return nil
}

func (n *xmlNode) attr(name string) string {
	if n == nil {
		return ""
	}
	for _, a := range n.attrs {
		if a.Name.Space == "" && a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// setAttr gives an element another attribute; an empty value takes it away.
func (n *xmlNode) setAttr(name, value string) {
	if n.attr(name) == value {
		return
	}
	n.changed = true
	at := slices.IndexFunc(n.attrs, func(a xml.Attr) bool { return a.Name.Space == "" && a.Name.Local == name })
	switch {
	case value == "":
		n.attrs = slices.Delete(n.attrs, at, at+1)
	case at >= 0:
		n.attrs[at].Value = value
	default:
		n.attrs = append(n.attrs, xml.Attr{Name: xml.Name{Local: name}, Value: value})
	}
}

// inner is what is between the tags of an element, as it is written.
func (x *xmlText) inner(n *xmlNode) string {
	if end := strings.LastIndex(x.text[n.opened:n.to], "</"); end >= 0 {
		return x.text[n.opened : n.opened+end]
	}
	return ""
}

// replace puts a text in the place of an element; an empty one removes it.
func (x *xmlText) replace(n *xmlNode, text string) {
	if n != nil {
		x.edits = append(x.edits, xmlEdit{n.from, n.to, text})
	}
}

// String is the text with all changes.
func (x *xmlText) String() string {
	edits := slices.Clone(x.edits)
	x.root.tags(x.text, &edits)
	slices.SortStableFunc(edits, func(a, b xmlEdit) int { return a.from - b.from })
	var out strings.Builder
	at := 0
	for _, e := range edits {
		if e.from < at {
			continue // inside of what was replaced as a whole
		}
		out.WriteString(x.text[at:e.from])
		out.WriteString(e.text)
		at = e.to
	}
	out.WriteString(x.text[at:])
	return out.String()
}

// tags collects the start tags that have changed.
func (n *xmlNode) tags(text string, edits *[]xmlEdit) {
	if n.changed {
		var tag strings.Builder
		tag.WriteString("<" + qualified(n.prefix, n.name))
		for _, a := range n.attrs {
			tag.WriteString(" " + qualified(a.Name.Space, a.Name.Local) + "='" + escaped(a.Value) + "'")
		}
		if text[n.opened-2:n.opened] == "/>" {
			tag.WriteByte('/')
		}
		tag.WriteByte('>')
		*edits = append(*edits, xmlEdit{n.from, n.opened, tag.String()})
	}
	for _, c := range n.children {
		c.tags(text, edits)
	}
}

func qualified(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + ":" + name
}

func escaped(s string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(s)) // a Builder takes everything
	return out.String()
}
