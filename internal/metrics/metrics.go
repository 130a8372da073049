// Package metrics shows the driver's figures to Prometheus. They are read when
// somebody asks: between two scrapes metrics cost nothing.
package metrics

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"toehold/internal/driver"
)

// A Source has the figures. driver.Driver is one.
type Source interface {
	Figures(context.Context) (driver.Figures, error)
}

// Bounds of what a scrape may cost.
const (
	scrapeWithin = 10 * time.Second
	scrapesMost  = 2 // at the same time
)

// Handler answers scrapes.
func Handler(s Source, version string, log *slog.Logger) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(
		&collector{source: s, version: version},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.HTTPErrorOnError,
		MaxRequestsInFlight: scrapesMost,
		Timeout:             scrapeWithin,
	})
}

// A collector is a prometheus.Collector.
type collector struct {
	source  Source
	version string
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range all {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeWithin)
	defer cancel()
	f, err := c.source.Figures(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(connections, err)
		return
	}
	e := emitter{out}
	e.gauge(build, 1, c.version)
	e.driver(&f)
	for i := range f.Tallies {
		e.tally(&f.Tallies[i])
	}
	for i := range f.Timings {
		e.timing(&f.Timings[i])
	}
	for i := range f.Devices {
		e.device(&f.Devices[i])
	}
}
