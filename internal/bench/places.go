package bench

import (
	"context"
	"errors"
	"fmt"

	"toehold/internal/control"
	"toehold/internal/driver"
	"toehold/internal/rig"
)

// places are where connections are measured: in the kernel, and on the device
// by each attachment.
var places = []string{driver.InKernel, driver.Shadow, driver.Bypass}

// A refusal is that the driver does not put connections where they are to be
// measured. They are in the kernel.
type refusal struct{ why string }

func (r *refusal) Error() string { return r.why }

// enter moves n connections, every one there is, from the kernel to a place.
func (b *bench) enter(ctx context.Context, n int, place string) (driver.Result, error) {
	if place == driver.InKernel {
		return driver.Result{}, nil
	}
	if err := b.alone(ctx, n); err != nil {
		return driver.Result{}, err
	}
	r, err := expect(ctx, n, func(ctx context.Context, s driver.Selector) (driver.Result, error) {
		return b.rig.OffloadAs(ctx, s, place)
	})
	if err == nil {
		err = b.attached(ctx, place, r.Moved)
	}
	if why := refused(r, err); why != nil {
		if err := b.recall(ctx); err != nil {
			return r, err
		}
		return r, why
	}
	return r, err
}

// attached checks that the connections are joined to the device as asked, and
// not otherwise because that was not to be had.
func (b *bench) attached(ctx context.Context, place string, moved []driver.Moved) error {
	for _, m := range moved {
		if m.Attachment != place {
			return &refusal{fmt.Sprintf("the driver chose %q: %s: %s", m.Attachment, m.Reason, m.Detail)}
		}
	}
	all, err := b.rig.Control.List(ctx, rig.All)
	for _, c := range all {
		if c.Attachment != place {
			return &refusal{fmt.Sprintf("the driver chose %q: %s", c.Attachment, c.Reason)}
		}
	}
	return err
}

// refused is why the driver did not do as asked, nil: it did, or failed.
func refused(r driver.Result, err error) *refusal {
	var why *refusal
	var unmeant *control.Error
	switch {
	case errors.As(err, &why):
		return why
	case errors.As(err, &unmeant) && unmeant.Kind == control.Usage:
		return &refusal{unmeant.Message}
	case len(r.Refused) > 0:
		return &refusal{fmt.Sprintf("%s: %s", r.Refused[0].Reason, r.Refused[0].Detail)}
	}
	return nil
}

// recall brings home what is on the device, which may be nothing.
func (b *bench) recall(ctx context.Context) error {
	_, err := b.rig.Upload(ctx, driver.Selector{State: driver.OnDevice})
	var none *control.Error
	if errors.As(err, &none) && none.Kind == control.NoMatch {
		return nil
	}
	return err
}

// leave brings n connections from a place home.
func (b *bench) leave(ctx context.Context, n int, place string) (driver.Result, error) {
	if place == driver.InKernel {
		return driver.Result{}, nil
	}
	return b.toKernel(ctx, n)
}

// in measures n connections in a place. The refusal, if any, is the driver's.
func (b *bench) in(ctx context.Context, n int, place string, measure func() error) (*refusal, error) {
	_, err := b.enter(ctx, n, place)
	var why *refusal
	if errors.As(err, &why) {
		return why, nil
	}
	if err == nil {
		err = measure()
	}
	if err == nil {
		_, err = b.leave(ctx, n, place)
	}
	if err != nil {
		return nil, fmt.Errorf("in %s: %w", place, err)
	}
	return nil, nil
}
