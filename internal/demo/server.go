package demo

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"toehold/internal/rig"
)

// serverName is the first argument with which any binary that has this package
// becomes the demo's HTTP server: a process of its own that knows nothing of
// toehold.
const serverName = "demo-server"

func init() {
	if len(os.Args) < 2 || os.Args[1] != serverName {
		return
	}
	// The name that a process list shows, instead of that of the link it was
	// started by.
	os.WriteFile("/proc/self/comm", []byte(serverName), 0)
	if err := serve(os.Stdout, os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, serverName+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve serves HTTP on the addresses given until SIGTERM. It prints the
// addresses that it listens on.
func serve(out io.Writer, addresses []string) error {
	server := &http.Server{Handler: handler(), ReadHeaderTimeout: time.Minute}
	failed := make(chan error, len(addresses))
	for _, a := range addresses {
		l, err := net.Listen("tcp", a)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, l.Addr())
		go func() { failed <- server.Serve(l) }()
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	select {
	case <-stop:
		return server.Close()
	case err := <-failed:
		return err
	}
}

// digestTrailer carries the SHA-256 of a download behind it.
const digestTrailer = "X-Sha256"

// handler is an ordinary web application: it sends, receives and echoes.
func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /download/{seed}/{octets}", download)
	mux.HandleFunc("POST /upload", upload)
	mux.HandleFunc("POST /echo", echo)
	return mux
}

func download(w http.ResponseWriter, r *http.Request) {
	seed, err1 := strconv.ParseUint(r.PathValue("seed"), 10, 64)
	octets, err2 := strconv.ParseInt(r.PathValue("octets"), 10, 64)
	if err1 != nil || err2 != nil {
		http.Error(w, "want /download/SEED/OCTETS", http.StatusBadRequest)
		return
	}
	w.Header().Set("Trailer", digestTrailer)
	h := sha256.New()
	body := io.TeeReader(io.LimitReader(rig.NewStream(seed), octets), h)
	if _, err := io.CopyBuffer(writeOnly{w}, body, make([]byte, bufferSize)); err == nil {
		w.Header().Set(digestTrailer, rig.Hex(h))
	}
}

// writeOnly hides ReadFrom, which would copy in pieces of 512 octets first.
type writeOnly struct{ io.Writer }

const bufferSize = 256 << 10

func upload(w http.ResponseWriter, r *http.Request) {
	h := sha256.New()
	if _, err := io.CopyBuffer(h, r.Body, make([]byte, bufferSize)); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	io.WriteString(w, rig.Hex(h))
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEcho))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Write(body)
}

const maxEcho = 64 << 10
