package libvirt

import (
	"encoding/binary"
	"io"
	"net"
)

// What the header of a message says: where in it, counted after its length, and
// in which words.
const (
	typeAt, serialAt, statusAt, headerSize = 12, 16, 20, 24

	typeReply      = 1
	typeStream     = 3
	statusContinue = 2
)

// streamWire is what go-libvirt reads of a connection with streams on it. It
// mends two things that make go-libvirt lose data and then wait for ever, with
// the lock held that everybody needs:
//
//   - libvirtd may send the first data of a stream before its reply to the call
//     that opened it: such data are held back until the reply was read;
//   - libvirtd may say twice that a stream has ended: what comes after the end is
//     left out.
type streamWire struct {
	net.Conn
	rest  []byte   // of the message that is being read
	ready [][]byte // messages that are to be read next
	state map[uint32]*streamState
}

type streamState struct {
	replied, ended bool
	held           [][]byte
}

func newStreamWire(conn net.Conn) *streamWire {
	return &streamWire{Conn: conn, state: map[uint32]*streamState{}}
}

// Read is that of the connection. There is one reader.
func (w *streamWire) Read(p []byte) (int, error) {
	for len(w.rest) == 0 {
		if len(w.ready) > 0 {
			w.rest, w.ready = w.ready[0], w.ready[1:]
			break
		}
		message, err := w.next()
		if err != nil {
			return 0, err
		}
		w.sort(message)
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

// sort makes a message ready, holds it back, or leaves it out.
func (w *streamWire) sort(message []byte) {
	header := message[4:]
	serial := binary.BigEndian.Uint32(header[serialAt:])
	s := w.state[serial]
	if s == nil {
		s = &streamState{}
		w.state[serial] = s
	}
	switch binary.BigEndian.Uint32(header[typeAt:]) {
	case typeReply:
		s.replied = true
		w.ready = append(append(w.ready, message), s.held...)
		s.held = nil
	case typeStream:
		if s.ended {
			return
		}
		s.ended = binary.BigEndian.Uint32(header[statusAt:]) != statusContinue || len(header) == headerSize
		if !s.replied {
			s.held = append(s.held, message)
			return
		}
		w.ready = append(w.ready, message)
	default:
		w.ready = append(w.ready, message)
	}
}

// next is one message with its length, which the guard below has found sane.
func (w *streamWire) next() ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(w.Conn, length[:]); err != nil {
		return nil, err
	}
	message := make([]byte, max(messageMin, int(binary.BigEndian.Uint32(length[:]))))
	copy(message, length[:])
	if _, err := io.ReadFull(w.Conn, message[len(length):]); err != nil {
		return nil, err
	}
	return message, nil
}
