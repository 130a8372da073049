package kernel

import "encoding/binary"

// eachAttribute calls f for every attribute of a netlink message, without the
// flags in its type; value is borrowed. False: the octets are no attributes,
// and f has seen those before the fault.
func eachAttribute(octets []byte, f func(kind uint16, value []byte)) bool {
	const header, typeMask = 4, 0x3fff // NLA_HDRLEN, NLA_TYPE_MASK
	for len(octets) >= header {
		length := int(binary.NativeEndian.Uint16(octets))
		if length < header || length > len(octets) {
			return false
		}
		f(binary.NativeEndian.Uint16(octets[2:])&typeMask, octets[header:length])
		octets = octets[min((length+3)&^3, len(octets)):] // the last may lack its padding
	}
	return len(octets) == 0
}

// number is the value of an attribute that is a 32-bit number in host order,
// and 0 if it is too short for one.
func number(value []byte) uint32 {
	if len(value) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(value)
}
