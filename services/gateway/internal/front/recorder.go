package front

import (
	"net/http"
	"strconv"
	"time"
)

// writeTimeout is how long one write of an answer may take. There is no timeout
// for the whole answer, since streams last for hours.
const writeTimeout = 30 * time.Second

// recorder remembers what was answered and gives every write a deadline, so that
// a client that reads nothing holds nothing for long.
type recorder struct {
	http.ResponseWriter

	control *http.ResponseController
	code    int
	size    int64
}

// Unwrap lets http.ResponseController reach the server's writer.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader remembers the code of the final answer.
func (r *recorder) WriteHeader(code int) {
	if r.code == 0 && code >= 200 {
		r.code = code
	}
	r.deadline()
	r.ResponseWriter.WriteHeader(code)
}

// Write counts.
func (r *recorder) Write(b []byte) (int, error) {
	if r.code == 0 {
		r.code = http.StatusOK
	}
	r.deadline()
	n, err := r.ResponseWriter.Write(b)
	r.size += int64(n)
	return n, err
}

// Flush sends what was written, for code that looks for an http.Flusher.
func (r *recorder) Flush() {
	r.deadline()
	_ = r.control.Flush() // the next write will say what is wrong
}

func (r *recorder) deadline() {
	// Writers that have no deadlines are those of tests.
	_ = r.control.SetWriteDeadline(time.Now().Add(writeTimeout))
}

// methodLabel keeps made-up methods out of logs and metrics.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete, http.MethodPut, http.MethodHead, http.MethodOptions:
		return method
	}
	return "other"
}

func codeLabel(code int) string { return strconv.Itoa(code) }
