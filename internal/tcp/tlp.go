package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/wire"
)

// tlpState is the tail loss probe in flight (RFC 8985, section 5.3).
type tlpState struct {
	end    seqnum.Value // TLP.end_seq; valid with sent
	resent uint32       // octets of the probe, when it was no new data (TLP.is_retrans); else 0
	sent   bool
	due    bool // Output is to send one
	want   bool // new data was sent since the timer was last set
}

// minPTO is under the probe timeout (Linux TCP_TIMEOUT_MIN: two ticks).
const minPTO = 2 * time.Millisecond

// scheduleProbe arms the probe timer (RFC 8985, section 7.2; Linux
// tcp_schedule_loss_probe) and reports whether it did.
func (c *Conn) scheduleProbe(now mono.Time, acked bool) bool {
	l, s := &c.loss, &c.snd
	l.tlp.want = false
	if !c.rcv.sack || s.flight() == 0 || l.phase != open && l.phase != reducing || l.runs > 0 || c.timer.backoff > 0 {
		return false
	}
	pto := initialRTO
	if c.rtt.srtt > 0 {
		pto = 2*c.rtt.srtt + minPTO
		if s.flight() <= s.mss {
			pto += minRTO - minPTO // the peer may delay its acknowledgment
		}
	}
	at := now.Add(pto)
	if rto := now.Add(c.backedOff()); acked || c.expiry(now) == now+1 {
		at = min(at, rto)
	} else {
		at = min(at, c.expiry(now))
	}
	c.timer.arm(probing, at)
	return true
}

// probe is the end of the probe timer (section 7.3): the next Output sends
// one, unless one is out already.
func (c *Conn) probe(now mono.Time) {
	c.loss.tlp.due = !c.loss.tlp.sent
	c.timer.arm(retransmitting, c.expiry(now))
}

// outputTailProbe sends a tail loss probe: new data if the peer's window allows
// it, whatever cwnd says, else the last segment again.
func (c *Conn) outputTailProbe(now mono.Time, out *wire.Out) bool {
	l, s := &c.loss, &c.snd
	if !l.tlp.due {
		return false
	}
	l.tlp.due = false
	if s.flight() == 0 || l.phase != open && l.phase != reducing {
		return false
	}
	n := min(s.unsent(), s.mss, distance(s.nxt, s.edge))
	if n == 0 && l.last().is(sacked) {
		return false // RACK knows, and the retransmission timer runs
	}
	c.stats.TailProbes++
	l.tlp.sent, l.tlp.resent = true, 0
	if n > 0 {
		c.emitNew(now, out, n, s.finDue() && n == s.unsent() && s.nxt.Add(n).Less(s.edge))
	} else {
		last := seqnum.Max(s.nxt-seqnum.Value(min(s.mss, s.flight())), s.una)
		c.resend(now, out, last, s.nxt.Sub(last))
		l.tlp.resent = length(out)
	}
	l.tlp.end, l.tlp.want = s.nxt, false
	c.armRTO(now) // its answer takes a round trip (Linux tcp_send_loss_probe)
	return true
}

// probeAnswered is section 7.4.2: whether the probe repaired a loss, which
// then asks for less, as any loss does.
func (c *Conn) probeAnswered(d *delivery) {
	l, t := &c.loss, &c.loss.tlp
	if !t.sent || c.snd.una.Less(t.end) {
		return
	}
	switch {
	case t.resent == 0:
		t.sent = false
	case !d.dsack.Empty() && d.dsack.Hi == t.end:
		// The probe was for nothing. That says nothing of RACK's patience.
		t.sent, d.dsack = false, seqnum.Range{}
	case t.end.Less(c.snd.una):
		t.sent = false
		if l.phase == open {
			c.reduceOnce(d.now)
		}
	case d.acked == 0 && d.fresh == 0 && d.pure:
		t.sent = false // both the segment and the probe arrived
	}
}
