package port

import (
	"errors"
	"strings"
	"testing"

	"toehold/internal/frame"
)

// texts receives everything that waits and returns it without the ten octets
// in front.
func texts(t testing.TB, p Port) (all []string) {
	t.Helper()
	into := make([]Received, 7)
	for {
		n, err := p.Receive(into)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return all
		}
		for _, r := range into[:n] {
			all = append(all, string(r.Buf.B[vnetLen:r.N]))
			r.Buf.Release()
		}
	}
}

var noVNet [vnetLen]byte

// say queues a frame of text behind an empty virtio_net_hdr.
func say(t testing.TB, p Port, pool *frame.Pool, text string) {
	t.Helper()
	b := pool.Get(len(text))
	copy(b.B, text)
	if !p.Queue(noVNet[:], []frame.Span{{Buf: b, Len: uint32(len(text))}}) {
		t.Fatal("the batch is full")
	}
	b.Release()
}

func flush(t testing.TB, p Port, want bool) {
	t.Helper()
	if done, err := p.Flush(); err != nil || done != want {
		t.Fatalf("flush: %v, %v", done, err)
	}
}

func TestPipeCarriesBothWays(t *testing.T) {
	pool := frame.NewPool(10 << 20)
	a, b := NewPipe(pool, pool)
	say(t, a, pool, "one")
	say(t, a, pool, strings.Repeat("x", 60000))
	say(t, b, pool, "back")
	if got := texts(t, b); len(got) != 0 {
		t.Errorf("%d frames came before the flush", len(got))
	}
	flush(t, a, true)
	flush(t, b, true)
	if got := texts(t, b); len(got) != 2 || got[0] != "one" || len(got[1]) != 60000 {
		t.Errorf("received %d frames", len(got))
	}
	if got := texts(t, a); len(got) != 1 || got[0] != "back" {
		t.Errorf("received %q", got)
	}
	want := Stats{RxFrames: 1, RxBytes: 4, TxFrames: 2, TxBytes: 60003}
	if got := a.Stats(); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
	a.Close()
	b.Close()
	pool.Recycle()
	if pool.Used() != 0 {
		t.Errorf("%d octets were never released", pool.Used())
	}
}

func TestPipeBlocksAndGoesOn(t *testing.T) {
	pool := frame.NewPool(64 << 20)
	a, b := NewPipe(pool, pool)
	sent := 0
	for ; ; sent++ {
		say(t, a, pool, string(rune('A'+sent%26)))
		if done, _ := a.Flush(); !done {
			break
		}
	}
	if sent != pipeDepth || a.Pending() != 1 || a.Stats().TxBlocked != 1 {
		t.Errorf("%d frames, %d pending, %+v", sent, a.Pending(), a.Stats())
	}
	got := texts(t, b)
	flush(t, a, true)
	got = append(got, texts(t, b)...)
	for i, s := range got {
		if s != string(rune('A'+i%26)) {
			t.Fatalf("frame %d is %q", i, s)
		}
	}
	if len(got) != pipeDepth+1 {
		t.Errorf("%d frames", len(got))
	}
}

func TestPipeWithoutBuffers(t *testing.T) {
	big, none := frame.NewPool(10<<20), frame.NewPool(frame.Small-frame.Reserve)
	a, b := NewPipe(big, none)
	for range 3 {
		say(t, a, big, "x")
	}
	b.Queue(make([]byte, maxHeader+1), nil)
	flush(t, a, true)
	if n := len(texts(t, b)); n != 1 {
		t.Errorf("%d frames from a pool of one", n)
	}
	if s := b.Stats(); s.RxNoBuffer != 2 || s.TxErrors != 1 || b.Pending() != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestPipeTooLarge(t *testing.T) {
	pool := frame.NewPool(10 << 20)
	a, b := NewPipe(pool, pool)
	whole := frame.Span{Buf: pool.Get(frame.Large), Len: frame.Large}
	a.Queue(nil, []frame.Span{whole})
	a.Queue([]byte{0}, []frame.Span{whole})
	flush(t, a, true)
	if n := len(texts(t, b)); n != 1 || b.Stats().RxTooLarge != 1 {
		t.Errorf("%d frames, %+v", n, b.Stats())
	}
}

func TestPipeWhoseEndIsClosed(t *testing.T) {
	pool := frame.NewPool(10 << 20)
	a, b := NewPipe(pool, pool)
	say(t, a, pool, "last")
	say(t, b, pool, "lost")
	flush(t, a, true)
	flush(t, b, true)
	a.Close()
	got := make([]Received, 1)
	if n, err := b.Receive(got); n != 1 || err != nil {
		t.Fatalf("%d frames, %v", n, err)
	}
	got[0].Buf.Release()
	if _, err := b.Receive(got); !errors.Is(err, ErrGone) {
		t.Errorf("error %v", err)
	}
	say(t, b, pool, "in vain")
	if done, err := b.Flush(); !done || !errors.Is(err, ErrGone) || b.Pending() != 0 {
		t.Errorf("flush %v %v", done, err)
	}
	pool.Recycle()
	if pool.Used() != 0 || b.FD() != -1 {
		t.Errorf("%d octets were never released", pool.Used())
	}
}
