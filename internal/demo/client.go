package demo

import (
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
	seed     uint64
	transfer func(ctx context.Context, w *worker) (int64, error)

	octets    atomic.Int64 // that both ends agree on
	moving    atomic.Int64 // octets seen on the connection so far, either way
	transfers atomic.Int64
	conn      *watchedConn // the only one
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

func (w *worker) once(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, transferTimeout)
	defer cancel()
	n, err := w.transfer(ctx, w)
	if err != nil {
		return fmt.Errorf("%s over %s, transfer %d: %w", w.kind, w.network, w.transfers.Load()+1, err)
	}
	w.octets.Add(n)
	w.transfers.Add(1)
	w.seed++
	return nil
}

// errDigest is a transfer whose two ends hashed different octets.
var errDigest = errors.New("the ends disagree on the octets")

// dialer connects from a namespace, for a worker.
func dialer(ns *testnet.Namespace, w *worker) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(_ context.Context, _, address string) (net.Conn, error) {
		// A connection that was lost would be opened again by HTTP without
		// a word.
		if w.conn != nil {
			return nil, fmt.Errorf("the connection %v was lost: %v", w.address.Load(), w.conn.failure.Load())
		}
		c, err := ns.Dial(w.network, address)
		if err != nil {
			return nil, err
		}
		w.address.Store(rig.Address(c.LocalAddr()))
		w.conn = &watchedConn{Conn: c, octets: &w.moving}
		return w.conn, nil
	}
}

// A watchedConn counts what passes, for progress and throughput, and keeps
// its first error.
type watchedConn struct {
	net.Conn
	octets  *atomic.Int64
	failure atomic.Value // string
}

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.note("read", n, err)
	return n, err
}

func (c *watchedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.note("write", n, err)
	return n, err
}

func (c *watchedConn) note(what string, n int, err error) {
	c.octets.Add(int64(n))
	if err != nil {
		c.failure.CompareAndSwap(nil, fmt.Sprintf("%s at %s: %v", what, time.Now().Format("15:04:05.000"), err))
	}
}

// httpWorker returns a worker over one HTTP connection of its own.
func httpWorker(ns *testnet.Namespace, network, kind string, seed uint64, base string) *worker {
	w := &worker{kind: kind, network: network, seed: seed << 32}
	client := &http.Client{Transport: &http.Transport{
		DialContext: dialer(ns, w), MaxConnsPerHost: 1, DisableCompression: true,
		WriteBufferSize: bufferSize, ReadBufferSize: bufferSize,
	}}
	switch kind {
	case "download":
		w.transfer = func(ctx context.Context, w *worker) (int64, error) { return getStream(ctx, client, base, w.seed) }
	case "upload":
		w.transfer = func(ctx context.Context, w *worker) (int64, error) { return postStream(ctx, client, base, w.seed) }
	case "request":
		w.transfer = func(ctx context.Context, w *worker) (int64, error) { return postEcho(ctx, client, base, w.seed) }
	}
	return w
}

// do makes a request and hands its body, read to the end, to a hash or a
// buffer.
func do(ctx context.Context, client *http.Client, method, url string, body io.Reader, size int64, into io.Writer) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	r.ContentLength = size
	response, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if _, err := io.CopyBuffer(writeOnly{into}, response.Body, make([]byte, bufferSize)); err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s", response.Status)
	}
	return response, nil
}

func getStream(ctx context.Context, client *http.Client, base string, seed uint64) (int64, error) {
	h := sha256.New()
	url := fmt.Sprintf("%s/download/%d/%d", base, seed, transferSize)
	response, err := do(ctx, client, http.MethodGet, url, nil, 0, h)
	if err != nil {
		return 0, err
	}
	if rig.Hex(h) != response.Trailer.Get(digestTrailer) {
		return 0, errDigest
	}
	return transferSize, nil
}

func postStream(ctx context.Context, client *http.Client, base string, seed uint64) (int64, error) {
	h := sha256.New()
	body := io.TeeReader(io.LimitReader(rig.NewStream(seed), transferSize), h)
	var answer bytes.Buffer
	if _, err := do(ctx, client, http.MethodPost, base+"/upload", body, transferSize, &answer); err != nil {
		return 0, err
	}
	if answer.String() != rig.Hex(h) {
		return 0, errDigest
	}
	return transferSize, nil
}

// requestSizes are the sizes of requests and their answers, by turns.
var requestSizes = []int{1, 64, 300, 1460, 4096, 20000}

func postEcho(ctx context.Context, client *http.Client, base string, seed uint64) (int64, error) {
	sent := make([]byte, requestSizes[seed%uint64(len(requestSizes))])
	rig.NewStream(seed).Read(sent)
	var answer bytes.Buffer
	if _, err := do(ctx, client, http.MethodPost, base+"/echo", bytes.NewReader(sent), int64(len(sent)), &answer); err != nil {
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
