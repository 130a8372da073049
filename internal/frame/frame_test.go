package frame

import "testing"

func TestReleasedBufferStaysUntilRecycle(t *testing.T) {
	p := NewPool(10 * Large)
	a := p.Get(100)
	a.Release()
	if b := p.Get(100); b == a {
		t.Fatal("a released buffer was given out before Recycle")
	}
	p.Recycle()
	if b := p.Get(100); b != a {
		t.Fatal("a recycled buffer was not used again")
	}
}

func TestLimit(t *testing.T) {
	p := NewPool(2 * Large)
	a, b := p.Get(Large), p.Get(Large)
	if a == nil || b == nil || p.Scarce() {
		t.Fatalf("limit of %d, used %d", p.Limit(), p.Used())
	}
	var reserve []*Buf
	for c := p.Get(Large); c != nil; c = p.Get(Large) {
		reserve = append(reserve, c)
		if !p.Scarce() {
			t.Fatal("the reserve is given out without a word")
		}
	}
	if n := len(reserve); n != Reserve/Large {
		t.Errorf("%d buffers of reserve", n)
	}
	for _, c := range reserve {
		c.Release()
	}
	p.Recycle()
	a.Retain()
	a.Release()
	p.Recycle()
	if p.Used() != 2*Large {
		t.Errorf("a buffer with a reference left was counted as free: used %d", p.Used())
	}
	a.Release()
	b.Release()
	p.Recycle()
	if p.Used() != 0 {
		t.Errorf("used %d after all were released", p.Used())
	}
}

// TestSmallestSize: a buffer is no larger than need be, is counted as what it
// holds, and goes back to those of its size.
func TestSmallestSize(t *testing.T) {
	for _, tt := range []struct{ n, want int }{
		{0, Small}, {1, Small}, {Small, Small},
		{Small + 1, Medium}, {2*1448 + 76, Medium}, {9000 + 28, Medium}, {Medium, Medium},
		{Medium + 1, Large}, {Large, Large},
	} {
		p := NewPool(1 << 20)
		b := p.Get(tt.n)
		if b.Cap() != tt.want || p.Used() != tt.want {
			t.Errorf("for %d octets a buffer of %d, used %d", tt.n, b.Cap(), p.Used())
		}
		b.Release()
		p.Recycle()
		for _, size := range []int{Small, Medium, Large} {
			if again := p.Get(size); (again == b) != (size == tt.want) {
				t.Errorf("asked for %d after a buffer of %d came back: the same is %v", size, tt.want, again == b)
			}
		}
	}
}

func TestTooLarge(t *testing.T) {
	if b := NewPool(1 << 30).Get(Large + 1); b != nil {
		t.Errorf("got %d octets", len(b.B))
	}
}

func TestReleaseTwicePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	b := NewPool(1 << 20).Get(1)
	b.Release()
	b.Release()
}

func TestSpanSlice(t *testing.T) {
	b := NewPool(1 << 20).Get(100)
	copy(b.B, "0123456789")
	s := Span{b, 2, 6}
	if got := string(s.Slice(1, 3).Bytes()); got != "345" {
		t.Errorf("slice is %q", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("a slice past the end did not panic")
		}
	}()
	s.Slice(4, 3)
}

func TestGetDoesNotAllocateOnceWarm(t *testing.T) {
	p := NewPool(1 << 30)
	run := func() {
		for _, size := range sizes {
			p.Get(size).Release()
		}
		p.Recycle()
	}
	run()
	if n := testing.AllocsPerRun(100, run); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A buffer over foreign memory is never given back, whoever releases a reference.
func TestWrap(t *testing.T) {
	memory := make([]byte, 10)
	b := Wrap(memory)
	if b.Shared() || b.Cap() != 10 {
		t.Errorf("shared %v, %d octets", b.Shared(), b.Cap())
	}
	b.Retain()
	if !b.Shared() {
		t.Error("not shared with a second reference")
	}
	b.Release()
	if b.Shared() {
		t.Error("shared after its release")
	}
	Span{Buf: b, Off: 3, Len: 2}.Bytes()[0] = 7
	if memory[3] != 7 {
		t.Error("a span is not of the memory")
	}
}
