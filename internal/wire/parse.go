package wire

import "toehold/internal/frame"

// Parse reads the frame in buf.B[:n], which starts with a virtio_net_hdr and
// goes on with a link header of linkLen octets, 14 or 0, before any 802.1Q
// or 802.1ad tags. p is filled only as far as the verdict says.
func Parse(buf *frame.Buf, n int, linkLen int, p *Packet) Verdict { return Malformed }
