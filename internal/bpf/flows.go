package bpf

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"

	"toehold/internal/abi"
	"toehold/internal/flow"
)

// octets is a flow.Key without structure, which the map operations take as it
// is; a structure they would take apart, field by field.
type octets [unsafe.Sizeof(flow.Key{})]byte

func asOctets(keys []flow.Key) []octets {
	return unsafe.Slice((*octets)(unsafe.Pointer(unsafe.SliceData(keys))), len(keys))
}

// An entry is an abi.FlowEntry, in the same way.
type entry [unsafe.Sizeof(abi.FlowEntry{})]byte

// entries are those of flows of which no frame has come yet.
func entries(ids []abi.HWID) []entry {
	all := make([]abi.FlowEntry, len(ids))
	for i := range ids {
		all[i].HWID = ids[i]
	}
	return unsafe.Slice((*entry)(unsafe.Pointer(unsafe.SliceData(all))), len(all))
}

// Steer turns flows to the device, all or none. A key's Local is this host's
// address; ids[i] goes with keys[i]. A flow that is steered already gets the
// new id; after an error it may be unsteered, which is always safe. More
// flows than MaxConnections are an error.
func (s *Set) Steer(keys []flow.Key, ids []abi.HWID) error {
	if len(keys) != len(ids) {
		return fmt.Errorf("steer %d flows with %d ids", len(keys), len(ids))
	}
	if len(keys) == 0 {
		return nil
	}
	done, err := s.steer.Flows.BatchUpdate(asOctets(keys), entries(ids), nil)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("steer flow %v: %w", keys[min(done, len(keys)-1)].ID(), err)
	return errors.Join(err, s.Unsteer(keys[:done]))
}

// Bypass says of a steered flow whether its socket is behind the wire: then
// nothing of the wire reaches it but what the device injects, not even from a
// device that is dead.
func (s *Set) Bypass(k flow.Key, on bool) error {
	s.behindMu.Lock()
	defer s.behindMu.Unlock()
	key := asOctets([]flow.Key{k})[0]
	var e abi.FlowEntry
	if err := s.steer.Flows.Lookup(&key, (*entry)(unsafe.Pointer(&e))); err != nil {
		return fmt.Errorf("flow %v: %w", k.ID(), err)
	}
	if e.Bypassed = 0; on {
		e.Bypassed = 1
		s.behind[key] = struct{}{}
	} else {
		delete(s.behind, key)
	}
	atomic.StoreUint32(&s.control.Bypassing, uint32(len(s.behind)))
	err := s.steer.Flows.Update(&key, (*entry)(unsafe.Pointer(&e)), ebpf.UpdateExist)
	if err != nil {
		return fmt.Errorf("flow %v: %w", k.ID(), err)
	}
	return nil
}

// forgetBehind is for flows that are not steered any more.
func (s *Set) forgetBehind(keys []flow.Key) {
	s.behindMu.Lock()
	defer s.behindMu.Unlock()
	if len(s.behind) == 0 {
		return
	}
	for _, k := range asOctets(keys) {
		delete(s.behind, k)
	}
	atomic.StoreUint32(&s.control.Bypassing, uint32(len(s.behind)))
}

// Unsteer gives flows back to the kernel; those that are not steered are not
// an error.
func (s *Set) Unsteer(keys []flow.Key) error {
	defer s.forgetBehind(keys)
	return Forget(s.steer.Flows, keys)
}

// Fence shuts the device off that has this memory.
func Fence(c *abi.Control) { atomic.StoreUint32(&c.Fenced, 1) }

// Forget is Unsteer for who has the map of a Set that is gone.
func Forget(flows *ebpf.Map, keys []flow.Key) error {
	for len(keys) > 0 {
		done, err := flows.BatchDelete(asOctets(keys), nil)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("unsteer %d flows: %w", len(keys), err)
		}
		keys = keys[min(done+1, len(keys)):] // the first that is left was not there
	}
	return nil
}

// Steered lists the flows that are steered to the device.
func (s *Set) Steered() ([]flow.Key, error) {
	var (
		all []flow.Key
		key octets
		is  entry
	)
	flows := s.steer.Flows.Iterate()
	for flows.Next(&key, &is) {
		all = append(all, *(*flow.Key)(unsafe.Pointer(&key)))
	}
	return all, flows.Err()
}
