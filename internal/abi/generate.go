package abi

//go:generate go run ./reasondoc -o ../../docs/REASONS.md
