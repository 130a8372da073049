package bpf

import (
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/shm"
)

// counted are the fields of TCP_INFO that a bypass must not hold up, nor a
// rebuilt socket set back.
type counted struct {
	Acked, Received, Sent    uint64
	SegsOut, SegsIn, NotSent uint32
}

func (e *seated) counted() counted {
	e.t.Helper()
	i := e.info(e.s)
	return counted{i.Bytes_acked, i.Bytes_received, i.Bytes_sent, i.Segs_out, i.Segs_in, i.Notsent_bytes}
}

func (c counted) and(more counted) counted {
	return counted{c.Acked + more.Acked, c.Received + more.Received, c.Sent + more.Sent,
		c.SegsOut + more.SegsOut, c.SegsIn + more.SegsIn, c.NotSent + more.NotSent}
}

func (e *seated) tells(when string, want counted) {
	e.t.Helper()
	if got := e.counted(); got != want {
		e.t.Errorf("%s:\n got %+v\nwant %+v", when, got, want)
	}
}

// ledger writes a block's ledger as a device would.
func (e *seated) ledger(l abi.LedgerPart) {
	b := &e.set.Blocks()[l.HWID.Index()].Ledger
	shm.Publish(&b.Sequence, func() {
		l.Sequence = b.Sequence
		*b = l
	})
}

// bypassed is a connection that has moved octets by TCP and is bypassed now.
func bypassed(t *testing.T) (e *seated, c int, h abi.HardwarePart, l abi.LedgerPart) {
	e = newSeated(t)
	move(t, e.s, e.peer, 5000)
	move(t, e.peer, e.s, 3000)
	e.must(e.set.OpenChannels())
	c = openChannel(t, e.Host)
	h = abi.HardwarePart{HWID: abi.MakeHWID(7, 3), Place: abi.PlaceOwned, Attachment: abi.AttachBypass, SegsSent: 50, SegsReceived: 40, SndNxt: 1<<32 - 100}
	l = abi.LedgerPart{HWID: h.HWID, SndUna: h.SndNxt, SndStart: h.SndNxt, SndEnd: h.SndNxt}
	e.must(e.set.Tie(h.HWID.Index(), descriptor(t, e.s.(*net.TCPConn)), c, 1<<20))
	e.publish(h)
	e.ledger(l)
	e.set.Blocks()[h.HWID.Index()].Channel.Open = 1
	eventually(t, "the connection is at rest", func() bool {
		k := probeOne(t, e.set, e.Host, e.key)
		return k.SndUna == k.WriteSeq && k.BytesReceived == 3000
	})
	return e, c, h, l
}

func TestTCPInfoOfBypass(t *testing.T) {
	e, c, h, l := bypassed(t)
	before := e.counted()
	e.order(Order{Set: SetPlace | SetDiverted, HWID: h.HWID, Place: abi.SeatDevice})
	e.tells("diverted", before)
	fd := descriptor(t, e.s.(*net.TCPConn))
	write := func(fd, n int) {
		t.Helper()
		if got, err := unix.Write(fd, pattern(n)); got != n || err != nil {
			t.Fatal(got, err)
		}
	}
	write(c, 700)
	write(fd, 1000)
	e.tells("in the channel", before.and(counted{Received: 700, NotSent: 1000}))
	l.Taken, l.SndEnd = 600, l.SndStart+600
	e.ledger(l)
	h.SndNxt += 500
	h.SegsSent, h.SegsReceived = h.SegsSent+3, h.SegsReceived+2
	e.publish(h)
	e.tells("sent", before.and(counted{Received: 700, Sent: 500, NotSent: 500, SegsOut: 3, SegsIn: 2}))
	l.SndUna += 200
	e.ledger(l)
	acked := before.and(counted{Received: 700, Acked: 200, Sent: 500, NotSent: 500, SegsOut: 3, SegsIn: 2})
	e.tells("acknowledged in part", acked)
	l.SndEnd += 300 // which spilled, and S has not heard of it
	e.ledger(l)
	acked.NotSent += 300
	e.tells("spilled", acked)
	l.SndEnd -= 300
	e.ledger(l)
	acked.NotSent -= 300
	e.tells("all as before", acked)

	for range 2 { // S's own counts begin anew, and once more
		e.order(Order{Set: SetKept})
		rebuild(t, e.s.(*net.TCPConn))
		e.order(Order{Set: SetRebuilt})
		acked.NotSent = 0
		e.tells("rebuilt", acked)
	}
	e.order(Order{Set: SetPlace, Place: abi.SeatKernel})
	e.tells("home", acked)
}

// Since when nothing was sent and received is told of the channel too.
func TestTCPInfoOfBypassTellsTimes(t *testing.T) {
	e, c, h, _ := bypassed(t)
	e.order(Order{Set: SetPlace | SetDiverted, HWID: h.HWID, Place: abi.SeatDevice})
	idle := func() uint32 {
		i := e.info(e.s)
		return min(i.Last_data_sent, i.Last_data_recv)
	}
	eventually(t, "nothing has moved for a while", func() bool { return idle() >= 300 })
	if _, err := e.s.Write(pattern(10)); err != nil {
		t.Fatal(err)
	}
	if i := e.info(e.s); i.Last_data_sent >= i.Last_data_recv || i.Last_data_recv < 300 {
		t.Errorf("sent %d ms ago, received %d", i.Last_data_sent, i.Last_data_recv)
	}
	if _, err := unix.Write(c, pattern(10)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(e.s, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if i := e.info(e.s); i.Last_data_recv > i.Last_data_sent+100 || i.Last_ack_recv > i.Last_data_recv {
		t.Errorf("sent %d ms ago, received %d, an acknowledgement %d", i.Last_data_sent, i.Last_data_recv, i.Last_ack_recv)
	}
}
