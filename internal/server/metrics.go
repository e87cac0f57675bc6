package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skeindb/skein/internal/node"
	"github.com/skeindb/skein/internal/replica"
)

// collector shows the state of a node's replicas as metrics, read when asked.
type collector struct {
	node    *node.Node
	metrics []metric
	control *prometheus.Desc
}

type metric struct {
	desc  *prometheus.Desc
	value func(replica.Status) float64
}

func newCollector(n *node.Node) *collector {
	c := &collector{node: n, control: prometheus.NewDesc("skein_control_leader", "1 on the node that leads the control plane.", nil, nil)}
	gauge := func(name, help string, value func(replica.Status) float64) {
		c.metrics = append(c.metrics, metric{prometheus.NewDesc("skein_replica_"+name, help, []string{"database"}, nil), value})
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge("leads", "1 on the replica that leads its database.", func(s replica.Status) float64 { return flag(s.Role == replica.RoleLeader) })
	gauge("lease_live", "1 while the leader holds its lease.", func(s replica.Status) float64 { return flag(s.LeaseLive) })
	gauge("degraded", "1 while fewer copies count than the policy asks.", func(s replica.Status) float64 { return flag(s.Degraded) })
	gauge("serving", "1 while the replica leads or follows.", func(s replica.Status) float64 {
		return flag(s.Role == replica.RoleLeader || s.Role == replica.RoleFollower)
	})
	gauge("epoch", "Epoch of the database as this node knows it.", func(s replica.Status) float64 { return float64(s.Epoch) })
	gauge("appended_seq", "Last sequence number in the log.", func(s replica.Status) float64 { return float64(s.Appended.Seq) })
	gauge("flushed_seq", "Last sequence number of the log known to be on disk.", func(s replica.Status) float64 { return float64(s.Flushed) })
	gauge("safe_seq", "Last sequence number that is as durable as the policy asks.", func(s replica.Status) float64 { return float64(s.Safe) })
	gauge("applied_seq", "Last sequence number in the database file.", func(s replica.Status) float64 { return float64(s.Applied.Seq) })
	gauge("age_seconds", "How long ago the replica was level with its leader.", func(s replica.Status) float64 { return s.Age.Seconds() })
	gauge("log_bytes", "Bytes of log on disk.", func(s replica.Status) float64 { return float64(s.LogBytes) })
	gauge("file_bytes", "Bytes of the database file and its WAL.", func(s replica.Status) float64 { return float64(s.FileBytes) })
	gauge("orphans", "Row changes that were undone here when an old leader came back.", func(s replica.Status) float64 { return float64(s.Orphans) })
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	out <- c.control
	for _, m := range c.metrics {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	leads := 0.0
	if c.node.Control().IsLeader() {
		leads = 1
	}
	out <- prometheus.MustNewConstMetric(c.control, prometheus.GaugeValue, leads)
	for _, db := range c.node.Control().State().Databases() {
		if db.Dropped || !db.HasReplica(c.node.ID()) {
			continue
		}
		s := replicaStatus(c.node, db)
		for _, m := range c.metrics {
			out <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, m.value(s), db.Name)
		}
	}
}
