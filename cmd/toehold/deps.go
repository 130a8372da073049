//go:build deps

package main

import (
	_ "github.com/cilium/ebpf"
	_ "github.com/cockroachdb/datadriven"
	_ "github.com/spf13/cobra"
	_ "github.com/vishvananda/netlink"
	_ "github.com/vishvananda/netns"
)
