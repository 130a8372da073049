package policy

import (
	"fmt"
	"net/netip"
	"reflect"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// endType is the type of `local` and `remote`.
var endType = cel.OpaqueType("end")

// An end is one end of a connection, as a value of CEL.
type end struct{ addr netip.Addr }

// ConvertToNative gives the address itself.
func (e end) ConvertToNative(t reflect.Type) (any, error) {
	if reflect.TypeFor[netip.Addr]().AssignableTo(t) {
		return e.addr, nil
	}
	return nil, fmt.Errorf("an end is no %v", t)
}

// ConvertToType knows no conversion.
func (e end) ConvertToType(t ref.Type) ref.Val {
	return types.NewErr("an end cannot be converted to %s", t.TypeName())
}

// Equal compares addresses.
func (e end) Equal(other ref.Val) ref.Val {
	o, ok := other.(end)
	return types.Bool(ok && o.addr == e.addr)
}

// Type is endType.
func (e end) Type() ref.Type { return endType }

// Value is the address.
func (e end) Value() any { return e.addr }

// within is end.within(prefix).
func within(e, prefix ref.Val) ref.Val {
	text, ok := prefix.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(prefix)
	}
	p, err := parsePrefix(string(text))
	if err != nil {
		return types.NewErr("%v", err)
	}
	return types.Bool(p.Contains(e.(end).addr))
}

// parsePrefix reads a prefix, or an address as the prefix of it alone.
func parsePrefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" && !a.Is4In6() {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || p.Addr().Is4In6():
		return p, fmt.Errorf("%q is no prefix such as 10.0.0.0/8 or fd00::/8, and no address", text)
	case p != p.Masked():
		return p, fmt.Errorf("%q has bits set beyond its length; %s is the prefix", text, p.Masked())
	}
	return p, nil
}
