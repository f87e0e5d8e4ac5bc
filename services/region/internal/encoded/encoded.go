// Package encoded lets services answer with bytes instead of messages: one message
// is sent to many streams and encoded once, and a page of a list is put together
// of what is stored. It is a codec for gRPC servers that knows, beside every
// protobuf message, one that carries its own bytes. Compression, where a client
// asks for it, is as ever the stream's.
//
// Bytes are for clients that are sent them. A call in the same process, which is
// answered with a message, does not go through Options, and Wanted says no.
//
// The package starts no goroutine.
package encoded

import (
	"slices"
	"sync"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that is asked for the rest
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Message is a message that is encoded when it is first sent.
type Message struct {
	encode func() ([][]byte, error)
}

// New makes a Message of one that is not changed any more.
func New(m proto.Message) *Message {
	return Make(func() ([]byte, error) { return proto.Marshal(m) })
}

// Make makes a Message of what encode answers with; it is called once, or never.
func Make(encode func() ([]byte, error)) *Message {
	return &Message{encode: sync.OnceValues(func() ([][]byte, error) {
		data, err := encode()
		return [][]byte{data}, err
	})}
}

// Join makes a Message of its parts, which one after another are its bytes.
func Join(parts ...[]byte) *Message {
	return &Message{encode: func() ([][]byte, error) { return parts, nil }}
}

// Bytes are the encoded message. Nobody may change them.
func (m *Message) Bytes() ([]byte, error) {
	parts, err := m.encode()
	if err != nil || len(parts) == 1 {
		return parts[0], err
	}
	return slices.Concat(parts...), nil
}

// codec is gRPC's own, and knows Messages.
type codec struct {
	encoding.CodecV2
}

// Codec is for grpc.ForceServerCodecV2. It speaks what gRPC's own codec speaks.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2("proto")} }

// Marshal encodes a message, or takes the bytes that are there: nobody changes or
// frees them.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*Message)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	parts, err := m.encode()
	if err != nil {
		return nil, err
	}
	out := make(mem.BufferSlice, len(parts))
	for i, data := range parts {
		out[i] = mem.SliceBuffer(data)
	}
	return out, nil
}
