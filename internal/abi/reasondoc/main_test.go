package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestDocumentIsUpToDate(t *testing.T) {
	committed, err := os.ReadFile("../../../docs/REASONS.md")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	document(&b)
	if !bytes.Equal(b.Bytes(), committed) {
		t.Error("docs/REASONS.md is not what the list of reasons makes; run make generate")
	}
}

func TestRunWritesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "REASONS.md")
	if err := run(path); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || len(got) == 0 {
		t.Errorf("%d octets, %v", len(got), err)
	}
	if err := run(filepath.Join(path, "below-a-file")); err == nil {
		t.Error("no error for a path that cannot be")
	}
}
