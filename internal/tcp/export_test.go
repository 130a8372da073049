package tcp

import "unsafe"

// Held is the memory of all rings and sets, in octets.
func (c *Conn) Held() int {
	entries := len(c.snd.q.ring) + len(c.rcv.in.ring) + len(c.rcv.after().ooo.ring)
	return entries*int(unsafe.Sizeof(entry{})) + 8*cap(c.rcv.after().runs.list) + len(c.loss.ring)*int(unsafe.Sizeof(flight{}))
}

// Miscounted is by how much the sums of memory held in order and after a gap
// are more than the buffers there.
func (c *Conn) Miscounted() (in, ooo int) {
	memory := func(q *queue) (n int) {
		for i := q.head; i != q.tail; i++ {
			n += q.at(i).buf.Cap()
		}
		return n
	}
	return int(c.rcv.inMem) - memory(&c.rcv.in), int(c.rcv.after().memory) - memory(&c.rcv.after().ooo)
}
