package tcp

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"unsafe"

	"toehold/internal/frame"
	"toehold/internal/seqnum"
)

func TestQueueFindAcrossTheWrapAndGrowth(t *testing.T) {
	pool := frame.NewPool(1 << 30)
	var q queue
	q.head, q.tail = 0xfffffffd, 0xfffffffd
	seq := seqnum.Value(0xffffff00)
	var ends []seqnum.Value
	for i := range uint32(100) {
		q.push(frame.Span{Buf: pool.Get(1), Len: 1 + i%7}, seq)
		seq = seq.Add(1 + i%7)
		ends = append(ends, seq)
	}
	v := seqnum.Value(0xffffff00)
	for i, end := range ends {
		for ; v != end; v++ {
			if got := q.find(v) - q.head; got != uint32(i) {
				t.Fatalf("%v found at %d, want %d", v, got, i)
			}
		}
	}
	if q.find(seq) != q.tail {
		t.Error("the end was found inside")
	}
}

func TestQueueDropBefore(t *testing.T) {
	pool := frame.NewPool(1 << 30)
	var q queue
	for i := range seqnum.Value(10) {
		q.push(frame.Span{Buf: pool.Get(1), Len: 100}, 100*i)
	}
	q.dropBefore(250)
	if e := q.at(q.head); q.len() != 8 || e.seq != 250 || e.len != 50 || e.off != 50 {
		t.Errorf("%d entries, first %+v", q.len(), *e)
	}
	q.dropBefore(1000)
	pool.Recycle()
	if !q.empty() || pool.Used() != 0 {
		t.Errorf("%d entries, %d octets in use", q.len(), pool.Used())
	}
	if q.giveBack(); q.ring != nil {
		t.Error("an empty queue keeps its ring")
	}
}

// TestQueuePut replaces entries at random and compares with a slice.
func TestQueuePut(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pool := frame.NewPool(1 << 30)
	var q queue
	var want []seqnum.Value
	for step := range 2000 {
		i := r.IntN(len(want) + 1)
		j := i + r.IntN(min(3, len(want)-i)+1)
		q.put(q.head+uint32(i), q.head+uint32(j), frame.Span{Buf: pool.Get(1), Len: 1}, seqnum.Value(step))
		want = append(want[:i:i], append([]seqnum.Value{seqnum.Value(step)}, want[j:]...)...)
		if r.IntN(10) == 0 && len(want) > 0 {
			q.drop()
			want = want[1:]
		}
		for k := range want {
			if int(q.len()) != len(want) || q.at(q.head+uint32(k)).seq != want[k] {
				t.Fatalf("step %d: entry %d of %d", step, k, q.len())
			}
		}
	}
	q.clear()
	pool.Recycle()
	if pool.Used() != 0 {
		t.Errorf("%d octets leaked", pool.Used())
	}
}

// TestSize pins what an idle connection costs beside its buffers, of which it
// has none: the Conn with its counters, and the state of its congestion control.
// Without the counters 1 KiB must do. Chelsio's block is 128.
func TestSize(t *testing.T) {
	const whole, counters = unsafe.Sizeof(Conn{}), unsafe.Sizeof(Stats{})
	t.Logf("Conn: %d octets, of these counters %d", whole, counters)
	for name, n := range map[string]uintptr{
		"send": unsafe.Sizeof(sendState{}), "receive": unsafe.Sizeof(recvState{}), "loss": unsafe.Sizeof(lossState{}),
		"rtt": unsafe.Sizeof(rttState{}), "congestion": unsafe.Sizeof(congestion{}), "timers": unsafe.Sizeof(timerState{}),
		"timestamps": unsafe.Sizeof(stampState{}), "ecn": unsafe.Sizeof(ecnState{}), "options": unsafe.Sizeof(optionState{}),
	} {
		t.Logf("%s: %d", name, n)
	}
	for name, of := range algorithms {
		all := whole
		if a := of(); a != nil {
			all += reflect.TypeOf(a).Elem().Size()
		}
		t.Logf("with %q: %d, without counters %d", name, all, all-counters)
		if all > 1024 {
			t.Errorf("with %q: %d octets", name, all)
		}
	}
}
