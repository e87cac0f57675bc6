package server

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/node"
)

// AddWebhook implements httpapi.Node.
func (s *Server) AddWebhook(ctx context.Context, database string, q httpapi.WebhookRequest) (httpapi.AddedWebhook, error) {
	secret, err := s.node.AddWebhook(ctx, database, node.NewWebhook{
		Name: q.Name, URL: q.URL, Tables: q.Tables, Snapshot: q.From == "snapshot", Secret: q.Secret,
	})
	return httpapi.AddedWebhook{Name: q.Name, Secret: secret}, err
}

// DropWebhook implements httpapi.Node.
func (s *Server) DropWebhook(ctx context.Context, database, name string) error {
	return s.node.DropWebhook(ctx, database, name)
}

// ListWebhooks implements httpapi.Node.
func (s *Server) ListWebhooks(ctx context.Context, database string) ([]httpapi.Webhook, error) {
	hooks, err := s.node.Webhooks(ctx, database)
	if err != nil {
		return nil, err
	}
	list := make([]httpapi.Webhook, 0, len(hooks))
	for _, w := range hooks {
		list = append(list, httpapi.Webhook{
			Name: w.Name, URL: w.URL, Tables: w.Tables, Offset: w.Offset, Position: w.Position.String(), Snapshot: w.Snapshot,
			Node: w.Node, LagSeqs: w.Lag, Delivered: w.Delivered, Failures: w.Failures, LastError: w.LastError, FailingForSec: int64(w.Failing / time.Second),
		})
	}
	return list, nil
}

var (
	webhookLag       = prometheus.NewDesc("skein_webhook_lag_seqs", "Row changes that are safe and that a webhook was not delivered.", []string{"database", "webhook"}, nil)
	webhookFailing   = prometheus.NewDesc("skein_webhook_failing_seconds", "For how long deliveries to a webhook have failed; 0: they do not.", []string{"database", "webhook"}, nil)
	webhookDelivered = prometheus.NewDesc("skein_webhook_delivered", "Events that a webhook was delivered, since this node delivers.", []string{"database", "webhook"}, nil)
	webhookFailures  = prometheus.NewDesc("skein_webhook_failures", "Attempts to deliver to a webhook that failed, since this node delivers.", []string{"database", "webhook"}, nil)
)

// deliveries are the metrics of what a node delivers to webhooks.
type deliveries struct{ node *node.Node }

// Describe implements prometheus.Collector.
func (deliveries) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{webhookLag, webhookFailing, webhookDelivered, webhookFailures} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c deliveries) Collect(out chan<- prometheus.Metric) {
	for _, r := range c.node.Deliveries("") {
		show := func(d *prometheus.Desc, v int64) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), r.Database, r.Webhook)
		}
		show(webhookLag, r.Lag)
		show(webhookFailing, int64(r.Failing/time.Second))
		show(webhookDelivered, r.Delivered)
		show(webhookFailures, r.Failures)
	}
}
