// Package encoded lets one message be sent to many streams and be encoded once:
// a codec for gRPC servers that knows, beside every protobuf message, one that
// carries its own bytes. Compression, where a client asks for it, is as ever the
// stream's.
//
// The package starts no goroutine.
package encoded

import (
	"sync"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that is asked for the rest
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Message is a message that is encoded when it is first sent.
type Message struct {
	encode func() ([]byte, error)
}

// New makes a Message of one that is not changed any more.
func New(m proto.Message) *Message {
	return Make(func() ([]byte, error) { return proto.Marshal(m) })
}

// Make makes a Message of what encode answers with; it is called once, or never.
func Make(encode func() ([]byte, error)) *Message {
	return &Message{encode: sync.OnceValues(encode)}
}

// Bytes are the encoded message. Nobody may change them.
func (m *Message) Bytes() ([]byte, error) { return m.encode() }

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
	data, err := m.encode()
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(data)}, nil
}
