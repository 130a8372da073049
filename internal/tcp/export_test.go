package tcp

import "unsafe"

// Held is the memory of all rings and sets, in octets.
func (c *Conn) Held() int {
	entries := len(c.snd.q.ring) + len(c.rcv.in.ring) + len(c.rcv.ooo.ring)
	return entries*int(unsafe.Sizeof(entry{})) + 8*(cap(c.rcv.runs.list)+cap(c.loss.sacked.list))
}
