package tcb

// A State is a state of the connection, RFC 9293, section 3.3.2. A connection
// at rest is synchronized, so the states before ESTABLISHED are missing.
type State uint8

// The states. Closed is the zero value: nothing is there.
const (
	Closed State = iota
	Established
	FinWait1
	FinWait2
	CloseWait
	Closing
	LastAck
	TimeWait
)

var names = [...]string{
	Closed: "closed", Established: "established", FinWait1: "fin-wait-1", FinWait2: "fin-wait-2",
	CloseWait: "close-wait", Closing: "closing", LastAck: "last-ack", TimeWait: "time-wait",
}

// String is the RFC's name in lower case, "established", "close-wait".
func (s State) String() string {
	if int(s) < len(names) {
		return names[s]
	}
	return "invalid"
}

// Valid reports whether s is one of the states.
func (s State) Valid() bool { return int(s) < len(names) }

// PeerClosed reports whether the peer's FIN has been received in order.
func (s State) PeerClosed() bool {
	return s == CloseWait || s == Closing || s == LastAck || s == TimeWait
}

// LocalClosed reports whether this end has closed: its FIN is queued, sent or
// acknowledged.
func (s State) LocalClosed() bool { return s >= FinWait1 && s != CloseWait }

// LocalFINAcked reports whether this end's FIN has been acknowledged.
func (s State) LocalFINAcked() bool { return s == FinWait2 || s == TimeWait }

// StateOf is the state of a connection of which this much is known: the peer's
// FIN was received in order, the own FIN is queued or sent, it is
// acknowledged. When both closed and the own FIN is not yet acknowledged the
// order of the two cannot be told: it says LastAck.
func StateOf(peerFIN, localFIN, localFINAcked bool) State {
	switch {
	case localFINAcked && peerFIN:
		return TimeWait
	case localFINAcked:
		return FinWait2
	case localFIN && peerFIN:
		return LastAck
	case localFIN:
		return FinWait1
	case peerFIN:
		return CloseWait
	}
	return Established
}
