package kernel

import (
	"fmt"
	"testing"
)

func TestEachAttribute(t *testing.T) {
	for _, tt := range []struct {
		name, octets, want string
		whole              bool
	}{
		{"none", "", "", true},
		{"one", "\x08\x00\x03\x00abcd", "3=abcd ", true},
		{"two, padded", "\x05\x00\x01\x00a\x00\x00\x00\x06\x00\x02\x00bc\x00\x00", "1=a 2=bc ", true},
		{"last without padding", "\x05\x00\x01\x00a", "1=a ", true},
		{"empty value", "\x04\x00\x09\x00", "9= ", true},
		{"nested flag", "\x04\x00\x09\x80", "9= ", true},
		{"shorter than its header", "\x03\x00\x09\x00", "", false},
		{"length zero", "\x00\x00\x00\x00", "", false},
		{"longer than there is", "\x09\x00\x09\x00abcd", "", false},
		{"fault after one", "\x04\x00\x01\x00\x01", "1= ", false},
	} {
		got := ""
		whole := eachAttribute([]byte(tt.octets), func(kind uint16, value []byte) {
			got += fmt.Sprintf("%d=%s ", kind, value)
		})
		if got != tt.want || whole != tt.whole {
			t.Errorf("%s: %q, whole %t", tt.name, got, whole)
		}
	}
	if number([]byte{1, 2, 3}) != 0 {
		t.Error("three octets are a number")
	}
}
