package abi

// A Load is what a device says of its own work. It counts since the process
// was started, and is written anew while it runs, every few heartbeats.
type Load struct {
	Sequence     uint64 // odd while it is written
	Elapsed      uint64 // ns since the loop began
	Busy         uint64 // ns of those in which it did not sleep
	Share        uint64 // of the last second or so that it did not sleep, in millionths
	Turns        uint64 // of the loop
	Frames       uint64 // received, of both ports
	Unknown      uint64 // frames of flows that are not in the table
	BadFrames    uint64 // frames that could not be parsed or had a wrong checksum
	Untaken      uint64 // frames to be sent that a port did not take
	PoolUsed     uint64 // octets of buffers in use
	Wire         Traffic
	Uplink, Host PortLoad
}

// Traffic is what the engines that face the peers have sent and received, over
// all connections that there were.
type Traffic struct {
	BytesSent, BytesReceived uint64 // payload: sent for the first time, received in order
	SegsSent, SegsReceived   uint64
	Retransmits, OutOfOrder  uint64 // segments
	BytesResent              uint64
}

// A PortLoad is what went through one port of a device.
type PortLoad struct {
	RxFrames, RxBytes uint64
	RxDropped         uint64 // by the kernel, the receive queue being full
	RxNoBuffer        uint64 // dropped, the pool being at its limit
	RxTooLarge        uint64 // dropped, longer than any buffer
	TxFrames, TxBytes uint64
	TxErrors          uint64 // refused by the kernel, and dropped
	TxBlocked         uint64 // times that the port took no more for a while
	TxPending         uint64 // frames that wait now
}

// Plus is the sum of two.
func (t Traffic) Plus(o Traffic) Traffic {
	return Traffic{
		t.BytesSent + o.BytesSent, t.BytesReceived + o.BytesReceived, t.SegsSent + o.SegsSent,
		t.SegsReceived + o.SegsReceived, t.Retransmits + o.Retransmits, t.OutOfOrder + o.OutOfOrder,
		t.BytesResent + o.BytesResent,
	}
}

// Minus is what t has beyond o, which is earlier.
func (t Traffic) Minus(o Traffic) Traffic {
	return Traffic{
		t.BytesSent - o.BytesSent, t.BytesReceived - o.BytesReceived, t.SegsSent - o.SegsSent,
		t.SegsReceived - o.SegsReceived, t.Retransmits - o.Retransmits, t.OutOfOrder - o.OutOfOrder,
		t.BytesResent - o.BytesResent,
	}
}
