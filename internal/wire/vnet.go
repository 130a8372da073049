package wire

import "encoding/binary"

// VNetLen is the length of the virtio_net_hdr that every frame starts with,
// in the legacy form without num_buffers.
const VNetLen = 10

// Values of VNet.Flags and VNet.GSOType (include/uapi/linux/virtio_net.h).
const (
	NeedsCsum = 1 // the checksum field holds the pseudo-header's sum only
	DataValid = 2 // the checksum was verified on the way in

	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	GSOECN   = 0x80 // or-ed to the type: CWR is on the first segment only
)

// VNet is struct virtio_net_hdr. Offsets count from the octet after it. Its
// fields stand in host order, which is the legacy form that AF_PACKET and
// TAP use unless told otherwise.
type VNet struct {
	Flags, GSOType uint8
	HdrLen         uint16 // octets of all headers, a hint
	GSOSize        uint16 // payload octets of each segment, 0 without GSO
	CsumStart      uint16 // NeedsCsum: where the checksummed part starts
	CsumOffset     uint16 // NeedsCsum: where, from CsumStart, the sum goes
}

// Put writes v to the first VNetLen octets of b.
func (v *VNet) Put(b []byte) {
	_ = b[VNetLen-1]
	b[0], b[1] = v.Flags, v.GSOType
	binary.NativeEndian.PutUint16(b[2:], v.HdrLen)
	binary.NativeEndian.PutUint16(b[4:], v.GSOSize)
	binary.NativeEndian.PutUint16(b[6:], v.CsumStart)
	binary.NativeEndian.PutUint16(b[8:], v.CsumOffset)
}

// Get reads v from the first VNetLen octets of b.
func (v *VNet) Get(b []byte) {
	_ = b[VNetLen-1]
	v.Flags, v.GSOType = b[0], b[1]
	v.HdrLen = binary.NativeEndian.Uint16(b[2:])
	v.GSOSize = binary.NativeEndian.Uint16(b[4:])
	v.CsumStart = binary.NativeEndian.Uint16(b[6:])
	v.CsumOffset = binary.NativeEndian.Uint16(b[8:])
}
