package wire

// Header lengths without options and tags, and the most that Build writes.
const (
	EtherLen   = 14
	TagLen     = 4
	MaxLink    = EtherLen + 2*TagLen
	MaxHeaders = VNetLen + MaxLink + 40 + 60
)

// A Template builds the headers of one direction of one flow.
type Template struct{ set bool }

// Set learns link header, addresses, ports, TTL, TOS and flow label from a
// frame that went in this direction.
func (t *Template) Set(p *Packet) {}

// SetLink replaces the link header: empty for an uplink that has none.
func (t *Template) SetLink(link []byte) {}

// Ready reports whether Set was called.
func (t *Template) Ready() bool { return t.set }

// Build writes virtio_net_hdr, link, IP and TCP headers for out to dst and
// returns their length; 0 when t is not ready, dst is shorter than MaxHeaders
// or out is longer than MaxSuper.
func (t *Template) Build(dst []byte, out *Out) int { return 0 }
