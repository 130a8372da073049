package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"toehold/internal/rig"
)

// A subject is a program whose requests are measured, as it comes.
type subject struct {
	name   string
	binary string // empty: this one
	pack   string // Debian's, that has it
	port   uint16
	// arguments of the program, which may have files in a folder.
	arguments func(folder, address string) ([]string, error)
	// exchange prepares what a request asks for, over a connection of its own.
	exchange func(c net.Conn, octets int) (exchange, error)
}

var subjects = []subject{
	{"echo", "", "", 7001, echoArguments, echoExchange},
	{"redis", "redis-server", "redis-server", 7002, redisArguments, redisExchange},
	{"nginx", "nginx", "nginx-light", 7003, nginxArguments, nginxExchange},
}

// path is where the program is.
func (s *subject) path() (string, error) {
	if s.binary == "" {
		return "/proc/self/exe", nil
	}
	path, err := exec.LookPath(s.binary)
	if err != nil {
		return "", fmt.Errorf("%s is not installed: Debian has it in %s", s.binary, s.pack)
	}
	return path, nil
}

// start runs the program on a processor of its own.
func (s *subject) start(ctx context.Context, r *rig.Rig, folder, address string, cpu int) (*rig.Program, error) {
	path, err := s.path()
	if err != nil {
		return nil, err
	}
	arguments, err := s.arguments(folder, address)
	if err != nil {
		return nil, err
	}
	cmd := rig.Command(r.Net.Host, "/proc/self/exe", append([]string{pinName, strconv.Itoa(cpu), path}, arguments...)...)
	if s.binary == "" {
		cmd.Env = append(os.Environ(), quietRuntime...)
	}
	p, err := rig.StartProgram(cmd, s.name, folder)
	if err != nil {
		return nil, err
	}
	return p, p.AwaitListen(ctx, r.Net.Host, address)
}

func echoArguments(_, address string) ([]string, error) { return []string{echoName, address}, nil }

func echoExchange(_ net.Conn, octets int) (exchange, error) {
	x := exchange{make([]byte, octets), octets}
	rig.NewStream(1).Read(x.request)
	return x, nil
}

func redisArguments(folder, address string) ([]string, error) {
	host, port, err := net.SplitHostPort(address)
	return []string{"--port", port, "--bind", host, "--save", "", "--appendonly", "no", "--protected-mode", "no", "--dir", folder}, err
}

// redisExchange is the GET of a value.
func redisExchange(c net.Conn, octets int) (exchange, error) {
	value := make([]byte, octets)
	rig.NewStream(1).Read(value)
	if _, err := fmt.Fprintf(c, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%s\r\n", octets, value); err != nil {
		return exchange{}, err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || line != "+OK\r\n" {
		return exchange{}, fmt.Errorf("redis answers SET by %.60q, %v", line, err)
	}
	return exchange{[]byte("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"), len(fmt.Sprintf("$%d\r\n", octets)) + octets + len("\r\n")}, nil
}

const benchNginxConfig = `daemon off; master_process on; worker_processes 1; user root;
error_log stderr; pid %[1]s/nginx.pid;
events { worker_connections 1024; }
http {
  access_log off; sendfile on; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fcgi;
  uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  server { listen %[2]s; root %[1]s; }
}
`

// nginxArguments leave files of the sizes that are asked for in the folder.
func nginxArguments(folder, address string) ([]string, error) {
	config := filepath.Join(folder, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, benchNginxConfig, folder, address), 0o644); err != nil {
		return nil, err
	}
	for _, n := range requestSizes {
		b := make([]byte, n)
		rig.NewStream(1).Read(b)
		if err := os.WriteFile(filepath.Join(folder, strconv.Itoa(n)), b, 0o644); err != nil {
			return nil, err
		}
	}
	return []string{"-e", "stderr", "-p", folder, "-c", config}, nil
}

// nginxExchange is the GET of a file. Its answers are all of one length.
func nginxExchange(c net.Conn, octets int) (exchange, error) {
	request := fmt.Appendf(nil, "GET /%d HTTP/1.1\r\nHost: bench\r\n\r\n", octets)
	if _, err := c.Write(request); err != nil {
		return exchange{}, err
	}
	in := &counted{from: c}
	answer, err := http.ReadResponse(bufio.NewReader(in), nil)
	if err != nil {
		return exchange{}, err
	}
	got, err := io.Copy(io.Discard, answer.Body)
	if err != nil || got != int64(octets) {
		return exchange{}, fmt.Errorf("nginx answers %s with %d of %d octets, %v", answer.Status, got, octets, err)
	}
	return exchange{request, in.octets}, nil
}

// counted counts what is read.
type counted struct {
	from   io.Reader
	octets int
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.from.Read(b)
	c.octets += n
	return n, err
}
