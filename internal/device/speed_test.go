package device

import (
	"io"
	"net"
	"testing"
	"time"
)

// BenchmarkRealBulk prints Gbit/s of one connection in the kernel and on the
// device, over the same veth.
func BenchmarkRealBulk(b *testing.B) {
	for _, tt := range []struct {
		name    string
		offload bool
		down    bool
	}{
		{"send/kernel", false, false}, {"send/device", true, false},
		{"receive/kernel", false, true}, {"receive/device", true, true},
	} {
		b.Run(tt.name, func(b *testing.B) {
			s := newStation(b)
			host, peer, id := s.connect(false)
			if tt.offload {
				s.offload(id)
			}
			from, to := host, peer
			if tt.down {
				from, to = peer, host
			}
			b.SetBytes(1 << 20)
			b.ResetTimer()
			start := time.Now()
			pump(b, from, to, int64(b.N)<<20)
			b.ReportMetric(float64(b.N)*(1<<20)*8/float64(time.Since(start).Nanoseconds()), "Gbit/s")
		})
	}
}

func pump(b *testing.B, from, to *net.TCPConn, n int64) {
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, 256<<10)
		var got int64
		for got < n {
			k, err := to.Read(buf)
			got += int64(k)
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	buf := make([]byte, 256<<10)
	for sent := int64(0); sent < n; {
		k, err := from.Write(buf[:min(int64(len(buf)), n-sent)])
		if err != nil {
			b.Fatal(err)
		}
		sent += int64(k)
	}
	if err := <-done; err != nil && err != io.EOF {
		b.Fatal(err)
	}
}

// BenchmarkRealRequest prints the time of one 64-octet request and response
// between a blocked client and a blocked server.
func BenchmarkRealRequest(b *testing.B) {
	for _, offload := range []bool{false, true} {
		name := "kernel"
		if offload {
			name = "device"
		}
		b.Run(name, func(b *testing.B) {
			s := newStation(b)
			host, peer, id := s.connect(false)
			if offload {
				s.offload(id)
			}
			go echo(host)
			buf := make([]byte, 64)
			b.ResetTimer()
			for range b.N {
				if _, err := peer.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(peer, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func echo(c *net.TCPConn) {
	buf := make([]byte, 64)
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return
		}
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}
