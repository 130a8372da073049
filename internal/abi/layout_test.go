package abi

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"unsafe"

	"toehold/internal/flow"
)

var update = flag.Bool("update", false, "write testdata/layout.txt; change Version with it")

// shared are the types that another process or a BPF program reads.
var shared = []any{
	flow.Key{}, FlowEntry{}, Traffic{}, PortLoad{}, Load{}, Pulse{}, Control{}, SocketState{}, KernelState{}, KernelPart{}, SocketPart{}, HardwarePart{}, ChannelPart{}, LedgerPart{}, Block{},
	Header{}, Greeting{}, Offer{}, Command{}, Answer{},
	PolicyTerm{}, PolicyTable{}, PolicyFacts{},
}

// layout writes every field's offset, size and type, and the constants that
// internal/bpf/c/toehold.h repeats.
func layout() string {
	var b strings.Builder
	fmt.Fprintf(&b, "version %d\n", Version)
	fmt.Fprintf(&b, "marks wire %#x inject %#x\n", MarkWire, MarkInject)
	for _, v := range shared {
		t := reflect.TypeOf(v)
		fmt.Fprintf(&b, "\n%s %d\n", t, t.Size())
		for i := range t.NumField() {
			f := t.Field(i)
			fmt.Fprintf(&b, "%4d %4d %s %s\n", f.Offset, f.Type.Size(), f.Name, f.Type)
		}
	}
	return b.String()
}

func TestLayoutIsTheGoldenOne(t *testing.T) {
	const path = "testdata/layout.txt"
	if *update {
		if err := os.WriteFile(path, []byte(layout()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := layout(); got != string(want) {
		t.Errorf("the shared layout changed; if that is meant, count Version up and run go test -update:\n%s", diff(string(want), got))
	}
}

// diff lists the lines of one text that are not in the other.
func diff(want, got string) string {
	var b strings.Builder
	for sign, pair := range map[string][2]string{"-": {want, got}, "+": {got, want}} {
		for line := range strings.Lines(pair[0]) {
			if !strings.Contains(pair[1], line) {
				b.WriteString(sign + line)
			}
		}
	}
	return b.String()
}

// The C compiler and Go agree on a layout without holes; a hole is where they
// may differ, and where a reader sees octets that nobody wrote.
func TestNoPaddingAndNoPointers(t *testing.T) {
	for _, v := range shared {
		walk(t, reflect.TypeOf(v), reflect.TypeOf(v).Name())
	}
}

func walk(t *testing.T, typ reflect.Type, path string) {
	t.Helper()
	switch typ.Kind() {
	case reflect.Struct:
		end := uintptr(0)
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Offset != end {
				t.Errorf("%s.%s: %d octets of padding before it", path, f.Name, f.Offset-end)
			}
			end = f.Offset + f.Type.Size()
			walk(t, f.Type, path+"."+f.Name)
		}
		if end != typ.Size() {
			t.Errorf("%s: %d octets of padding at its end", path, typ.Size()-end)
		}
	case reflect.Array:
		walk(t, typ.Elem(), path+"[]")
	case reflect.Pointer, reflect.Slice, reflect.String, reflect.Map, reflect.Interface, reflect.Int, reflect.Uint, reflect.Uintptr, reflect.Bool:
		t.Errorf("%s: a %s has no place in shared memory", path, typ.Kind())
	}
}

func TestBlockParts(t *testing.T) {
	var b Block
	if n := unsafe.Sizeof(b); n != BlockSize {
		t.Errorf("a block is %d octets, BlockSize says %d", n, BlockSize)
	}
	// Each part has one writer; on a cache line of its own, no writer slows
	// another one's readers.
	for name, offset := range map[string]uintptr{
		"socket":   unsafe.Offsetof(b.Socket),
		"hardware": unsafe.Offsetof(b.Hardware),
	} {
		if offset%64 != 0 {
			t.Errorf("the %s part begins at %d, inside a cache line", name, offset)
		}
	}
}
