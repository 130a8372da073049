package demo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"toehold/internal/rig"
	"toehold/internal/testnet"
)

// transferTimeout bounds one transfer. The slowest is 8 MiB on one of some
// thirty connections over two busy cores.
const transferTimeout = 30 * time.Second

// transferSize is one download or upload, in octets: small enough for all to
// end soon after they are asked to.
const transferSize = 8 << 20

// A worker makes transfers over one connection, one after the other, until it
// is stopped, and compares what both ends hashed.
type worker struct {
	kind     string // download, upload, request, nginx, redis
	network  string // tcp4 or tcp6
	server   string // its address
	seed     uint64 // of the next transfer
	ns       *testnet.Namespace
	transfer func(w *worker) (int64, error)
	conn     *connection // the only one; nil before the first transfer

	octets    atomic.Int64 // that both ends agree on
	moving    atomic.Int64 // octets seen on the connection so far, either way
	transfers atomic.Int64
	address   atomic.Value // netip.AddrPort: the connection's end in the peer's namespace
	failed    error        // read after the worker has ended
}

// run makes transfers until stop is closed.
func (w *worker) run(ctx context.Context, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		default:
		}
		if err := w.once(ctx); err != nil {
			w.failed = err
			return
		}
	}
}

// once makes one transfer, on a new connection the first time.
func (w *worker) once(ctx context.Context) error {
	if w.conn == nil {
		if err := w.connect(); err != nil {
			return err
		}
	}
	w.conn.SetDeadline(time.Now().Add(transferTimeout))
	defer context.AfterFunc(ctx, func() { w.conn.SetDeadline(time.Unix(1, 0)) })()
	n, err := w.transfer(w)
	if err != nil {
		return fmt.Errorf("%s over %s (%v), transfer %d: %w", w.kind, w.network, w.address.Load(), w.transfers.Load()+1, err)
	}
	w.octets.Add(n)
	w.transfers.Add(1)
	w.seed++
	return nil
}

func (w *worker) connect() error {
	c, err := w.ns.Dial(w.network, w.server)
	if err != nil {
		return err
	}
	w.address.Store(rig.Address(c.LocalAddr()))
	counted := &countedConn{c, &w.moving}
	w.conn = &connection{counted, bufio.NewReaderSize(counted, bufferSize), bufio.NewWriterSize(counted, bufferSize)}
	return nil
}

// close ends the connection of a worker that has ended.
func (w *worker) close() {
	if w.conn != nil {
		w.conn.Close()
	}
}

// errDigest is a transfer whose two ends hashed different octets.
var errDigest = errors.New("the ends disagree on the octets")

// A connection is a client's, with its buffers. HTTP is spoken on it by hand,
// a request and then its answer, since net/http's client opens another one
// without a word when it likes.
type connection struct {
	net.Conn
	in  *bufio.Reader
	out *bufio.Writer
}

// A countedConn counts what passes, for progress and throughput.
type countedConn struct {
	net.Conn
	octets *atomic.Int64
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.octets.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.octets.Add(int64(n))
	return n, err
}

// httpTransfers are what workers do with the demo's own server.
var httpTransfers = map[string]func(w *worker) (int64, error){
	"download": getStream, "upload": postStream, "request": postEcho,
}

// do makes a request and hands the answer's body, read to its end, to a hash
// or a buffer.
func (w *worker) do(method, path string, body io.Reader, size int64, into io.Writer) (*http.Response, error) {
	r, err := http.NewRequest(method, "http://"+w.server+path, body)
	if err != nil {
		return nil, err
	}
	r.ContentLength = size
	if err := errors.Join(r.Write(w.conn.out), w.conn.out.Flush()); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	response, err := http.ReadResponse(w.conn.in, r)
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	defer response.Body.Close()
	if _, err := io.CopyBuffer(writeOnly{into}, response.Body, make([]byte, bufferSize)); err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s", response.Status)
	}
	return response, nil
}

func getStream(w *worker) (int64, error) {
	h := sha256.New()
	response, err := w.do(http.MethodGet, fmt.Sprintf("/download/%d/%d", w.seed, transferSize), nil, 0, h)
	if err != nil {
		return 0, err
	}
	if rig.Hex(h) != response.Trailer.Get(digestTrailer) {
		return 0, errDigest
	}
	return transferSize, nil
}

func postStream(w *worker) (int64, error) {
	h := sha256.New()
	body := io.TeeReader(io.LimitReader(rig.NewStream(w.seed), transferSize), h)
	var answer bytes.Buffer
	if _, err := w.do(http.MethodPost, "/upload", body, transferSize, &answer); err != nil {
		return 0, err
	}
	if answer.String() != rig.Hex(h) {
		return 0, errDigest
	}
	return transferSize, nil
}

// requestSizes are the sizes of requests and their answers, by turns.
var requestSizes = []int{1, 64, 300, 1460, 4096, 20000}

func postEcho(w *worker) (int64, error) {
	sent := make([]byte, requestSizes[w.seed%uint64(len(requestSizes))])
	rig.NewStream(w.seed).Read(sent)
	var answer bytes.Buffer
	if _, err := w.do(http.MethodPost, "/echo", bytes.NewReader(sent), int64(len(sent)), &answer); err != nil {
		return 0, err
	}
	if sha256.Sum256(answer.Bytes()) != sha256.Sum256(sent) {
		return 0, errDigest
	}
	return 2 * int64(len(sent)), nil
}

// A crew is all workers at once.
type crew struct {
	workers []*worker
	stop    chan struct{}
	done    sync.WaitGroup
}

func (c *crew) start(ctx context.Context) {
	c.stop = make(chan struct{})
	for _, w := range c.workers {
		c.done.Go(func() { w.run(ctx, c.stop) })
	}
}

// finish lets every worker end its transfer, and returns what failed.
func (c *crew) finish() []error {
	close(c.stop)
	c.done.Wait()
	var failed []error
	for _, w := range c.workers {
		w.close()
		if w.failed != nil {
			failed = append(failed, w.failed)
		}
	}
	return failed
}

// octets is what has passed on all connections so far.
func (c *crew) octets() int64 {
	var n int64
	for _, w := range c.workers {
		n += w.moving.Load()
	}
	return n
}

// requests is the number of transfers of one kind so far.
func (c *crew) requests(kind string) int64 {
	var n int64
	for _, w := range c.workers {
		if w.kind == kind {
			n += w.transfers.Load()
		}
	}
	return n
}

// awaitProgress returns when every connection has carried something since it
// was called.
func (c *crew) awaitProgress(ctx context.Context) error {
	before := make([]int64, len(c.workers))
	for i, w := range c.workers {
		before[i] = w.moving.Load()
	}
	for i, w := range c.workers {
		for w.moving.Load() == before[i] {
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s over %s (%v) stands still: %w", w.kind, w.network, w.address.Load(), ctx.Err())
			case <-time.After(time.Millisecond):
			}
		}
	}
	return nil
}
