package query

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// part is a part of an encoded page: resources one after another, with their names
// and where each ends.
type part struct {
	data  []byte
	names []string
	ends  []int
	err   error
}

// sample is after how many resources it is known about how large all will be.
const sample = 8

// lengthBytes is what the length of most resources takes: 128 bytes to 16 KiB.
const lengthBytes = 2

func (p *part) fill(tag uint64, items []Item) {
	p.names, p.ends = make([]string, 0, len(items)), make([]int, 0, len(items))
	for i, item := range items {
		if i == sample {
			p.data = slices.Grow(p.data, len(p.data)/sample*len(items)*9/8)
		}
		begin := len(p.data)
		data := protowire.AppendVarint(p.data, tag)
		data = append(data, make([]byte, lengthBytes)...)
		at := len(data)
		if data, p.err = item.append(data); p.err != nil {
			p.err = fmt.Errorf("encode %s: %w", item.Name, p.err)
			return
		}
		size := len(data) - at
		if size == 0 {
			p.data = data[:begin] // there is none
			continue
		}
		if n := protowire.SizeVarint(uint64(size)); n != lengthBytes {
			data = slices.Replace(data, at-lengthBytes, at, make([]byte, n)...)
			at += n - lengthBytes
		}
		protowire.AppendVarint(data[:at-protowire.SizeVarint(uint64(size))], uint64(size))
		p.data, p.names, p.ends = data, append(p.names, item.Name), append(p.ends, len(data))
	}
}

func (i Item) append(b []byte) ([]byte, error) {
	if i.Append != nil {
		return i.Append(b)
	}
	m := i.Build()
	if m == nil {
		return b, nil
	}
	return proto.MarshalOptions{}.MarshalAppend(b, m)
}
