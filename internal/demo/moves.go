package demo

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"toehold/internal/driver"
	"toehold/internal/rig"
)

// compare moves all connections back and forth under traffic, and measures
// what they carry in both places.
func (d *run) compare(ctx context.Context) error {
	rounds := max(minRounds, d.options.Seconds/2)
	window := time.Duration(d.options.Seconds) * time.Second / time.Duration(2*rounds+1)
	if err := d.measure(ctx, "kernel", 2*window, &d.report.Kernel); err != nil {
		return err
	}
	for round := 1; round <= rounds; round++ {
		if err := d.round(ctx, round, window); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
	}
	return nil
}

// round takes all connections to the device and home again.
func (d *run) round(ctx context.Context, round int, window time.Duration) error {
	if err := d.moveAll(ctx, "offload", round); err != nil {
		return err
	}
	if err := d.measure(ctx, "device", window, &d.report.Device); err != nil {
		return err
	}
	if round == killRound {
		return d.kill(ctx)
	}
	if err := d.moveAll(ctx, "upload", round); err != nil {
		return err
	}
	return d.measure(ctx, "kernel", window, &d.report.Kernel)
}

// measure lets the traffic run for a while and adds what it carried.
func (d *run) measure(ctx context.Context, place string, window time.Duration, t *throughput) error {
	begin, octets, requests := time.Now(), d.crew.octets(), d.crew.requests("request")
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(window):
	}
	now := throughput{octets: d.crew.octets() - octets, requests: d.crew.requests("request") - requests, time: time.Since(begin)}
	t.add(now)
	d.say("%s: %s", place, now)
	return nil
}

// moveAll moves every connection, and tries again those that were refused for
// what passes by itself.
func (d *run) moveAll(ctx context.Context, verb string, round int) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	place, move := "on the device", d.rig.Offload
	if verb == "upload" {
		place, move = "in the kernel", d.rig.Upload
	}
	missing := d.addresses()
	for len(missing) > 0 {
		result, err := move(ctx, rig.All)
		if err != nil {
			return err
		}
		d.count(verb, result, missing)
		if len(missing) > 0 {
			d.say("%s %d: %d moved, %d not yet: %s", verb, round, len(result.Moved), len(missing), refusals(result))
			if err := d.pause(ctx, place, len(missing)); err != nil {
				return err
			}
		}
	}
	d.say("%s %d: all %d connections are %s%s", verb, round, len(d.crew.workers), place, d.report.lastMove(verb, len(d.crew.workers)))
	return nil
}

// pause waits a moment before connections are asked for again.
func (d *run) pause(ctx context.Context, place string, missing int) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("%d connections are not %s after %s", missing, place, settleTimeout)
	case <-time.After(50 * time.Millisecond):
		return nil
	}
}

// addresses are the connections by the end that the peer has.
func (d *run) addresses() map[netip.AddrPort]bool {
	all := map[netip.AddrPort]bool{}
	for _, w := range d.crew.workers {
		all[w.address.Load().(netip.AddrPort)] = true
	}
	return all
}

// count records a result, and takes what moved off the missing ones.
func (d *run) count(verb string, result driver.Result, missing map[netip.AddrPort]bool) {
	for _, m := range result.Moved {
		if missing[m.Remote] {
			delete(missing, m.Remote)
			d.report.moved(verb, m.Remote, m.Took, m.Stall)
		}
	}
}

func refusals(r driver.Result) string {
	count := map[string]int{}
	for _, c := range r.Refused {
		count[c.Reason]++
	}
	text := ""
	for reason, n := range count {
		text += fmt.Sprintf("%d %s ", n, reason)
	}
	return text
}

// kill ends the device as a crash would, while it has every connection, and
// waits until they go on and there is a new device.
func (d *run) kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	old, err := d.rig.KillDevice(ctx)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := d.crew.awaitProgress(ctx); err != nil {
		return fmt.Errorf("after the death of the device: %w", err)
	}
	progress := time.Since(begin)
	d.say("device process %d killed with SIGKILL: all %d connections went on within %s", old, len(d.crew.workers), progress.Round(time.Millisecond))
	pid, err := d.rig.AwaitDevice(ctx, old)
	if err != nil {
		return err
	}
	d.report.DeviceKills++
	d.report.KillStallUS = progress.Microseconds()
	d.say("the daemon has replaced it by process %d", pid)
	return nil
}
