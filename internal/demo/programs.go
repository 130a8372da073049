package demo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"toehold/internal/rig"
	"toehold/internal/testnet"
)

// startProgram starts a server in the host's namespace.
func startProgram(ns *testnet.Namespace, folder, name, path string, args ...string) (*rig.Program, error) {
	cmd := rig.Command(ns, path, args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(threads))
	return rig.StartProgram(cmd, name, folder)
}

// The ports that the servers listen on, in a namespace of their own.
const (
	serverPort = 80
	nginxPort  = 8080
	redisPort  = 6379
)

func at(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

// startServer starts the demo's own HTTP server.
func startServer(ctx context.Context, n *testnet.Net, folder string) (*rig.Program, error) {
	p, err := startProgram(n.Host, folder, serverName, "/proc/self/exe", serverName, at(n.HostIP4, serverPort), at(n.HostIP6, serverPort))
	if err != nil {
		return nil, err
	}
	return p, errors.Join(p.AwaitListen(ctx, n.Host, at(n.HostIP4, serverPort)), p.AwaitListen(ctx, n.Host, at(n.HostIP6, serverPort)))
}

const nginxConfig = `daemon off; master_process on; worker_processes 1; user root;
error_log stderr; pid %[1]s/nginx.pid;
events { worker_connections 64; }
http {
  access_log off; sendfile on; keepalive_requests 1000000; keepalive_timeout 600s;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fcgi;
  uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  server { listen %[2]s; listen %[3]s; root %[1]s; }
}
`

// startNginx starts nginx, which serves a file by sendfile, and returns the
// file's digest.
func startNginx(ctx context.Context, n *testnet.Net, folder, path string) (*rig.Program, string, error) {
	blob := make([]byte, transferSize)
	rig.NewStream(uint64(time.Now().UnixNano())).Read(blob)
	config := fmt.Sprintf(nginxConfig, folder, at(n.HostIP4, nginxPort), at(n.HostIP6, nginxPort))
	err := errors.Join(
		os.WriteFile(filepath.Join(folder, "blob"), blob, 0o644),
		os.WriteFile(filepath.Join(folder, "nginx.conf"), []byte(config), 0o644))
	if err != nil {
		return nil, "", err
	}
	p, err := startProgram(n.Host, folder, "nginx", path, "-e", "stderr", "-p", folder, "-c", filepath.Join(folder, "nginx.conf"))
	if err != nil {
		return nil, "", err
	}
	return p, fmt.Sprintf("%x", sha256.Sum256(blob)), p.AwaitListen(ctx, n.Host, at(n.HostIP6, nginxPort))
}

// fromNginx downloads nginx's file, whose digest is known.
func fromNginx(digest string) func(w *worker) (int64, error) {
	return func(w *worker) (int64, error) {
		h := sha256.New()
		if _, err := w.do(http.MethodGet, "/blob", nil, 0, h); err != nil {
			return 0, err
		}
		if rig.Hex(h) != digest {
			return 0, errDigest
		}
		return transferSize, nil
	}
}

func startRedis(ctx context.Context, n *testnet.Net, folder, path string) (*rig.Program, error) {
	p, err := startProgram(n.Host, folder, "redis", path, "--port", strconv.Itoa(redisPort), "--bind", n.HostIP4.String(), n.HostIP6.String(),
		"--save", "", "--appendonly", "no", "--protected-mode", "no", "--dir", folder)
	if err != nil {
		return nil, err
	}
	return p, p.AwaitListen(ctx, n.Host, at(n.HostIP6, redisPort))
}

// redisSize is the size of a value, in octets.
const redisSize = 100 << 10

// setAndGet sends a SET and a GET in one go and compares what comes back. Each
// connection has a key of its own.
func setAndGet(w *worker) (int64, error) {
	key, value := w.network, make([]byte, redisSize)
	rig.NewStream(w.seed).Read(value)
	request := fmt.Appendf(nil, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n",
		len(key), key, len(value), value, len(key), key)
	if _, err := w.conn.Write(request); err != nil {
		return 0, err
	}
	for _, want := range []string{"+OK", fmt.Sprintf("$%d", len(value))} {
		line, err := w.conn.in.ReadString('\n')
		if err != nil {
			return 0, err
		}
		if strings.TrimSpace(line) != want {
			return 0, fmt.Errorf("redis answers %.60q", line)
		}
	}
	got := make([]byte, len(value)+len("\r\n"))
	if _, err := io.ReadFull(w.conn.in, got); err != nil {
		return 0, err
	}
	if sha256.Sum256(got[:len(value)]) != sha256.Sum256(value) {
		return 0, errDigest
	}
	return 2 * int64(len(value)), nil
}
