package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skeindb/skein/internal/catalog"
	"github.com/skeindb/skein/internal/node"
	"github.com/skeindb/skein/internal/replica"
)

// collector shows the state of a node's replicas as metrics, read when asked.
type collector struct {
	node    *node.Node
	metrics []metric
	control *prometheus.Desc
	failed  *prometheus.Desc
	peer    *prometheus.Desc
	lag     *prometheus.Desc

	lagBytes, lagSeconds        *prometheus.Desc
	behind, cutOff, followerCut *prometheus.Desc
}

type metric struct {
	desc  *prometheus.Desc
	value func(replica.Status) float64
}

func newCollector(n *node.Node) *collector {
	c := &collector{
		node:    n,
		control: prometheus.NewDesc("skein_control_leader", "1 on the node that leads the control plane.", nil, nil),
		failed:  prometheus.NewDesc("skein_node_failed", "1 on a node that can't serve until someone acts.", nil, nil),
		peer:    prometheus.NewDesc("skein_peer_reachable", "1 for another node that this one reaches.", []string{"node"}, nil),
		lag:     prometheus.NewDesc("skein_follower_lag_seqs", "Row changes that a follower has not applied, as its leader sees it.", []string{"database", "node"}, nil),
	}
	c.lagBytes = prometheus.NewDesc("skein_follower_lag_bytes", "Bytes of log that a follower has not acknowledged, as its leader sees it.", []string{"database", "node"}, nil)
	c.lagSeconds = prometheus.NewDesc("skein_follower_lag_seconds", "For how long a follower has lacked something, as its leader sees it.", []string{"database", "node"}, nil)
	c.behind = prometheus.NewDesc("skein_consumer_behind_bytes", "Bytes of log that a consumer of changes has yet to read, in whole segments.", []string{"database", "consumer"}, nil)
	c.cutOff = prometheus.NewDesc("skein_consumer_cut_off_seconds", "When the log that a consumer of changes needs is gone, if it reads no more and writes go on; 0: not to be foreseen.", []string{"database", "consumer"}, nil)
	c.followerCut = prometheus.NewDesc("skein_follower_cut_off_seconds", "When the log that a follower needs is gone, if it gets no more and writes go on; 0: not to be foreseen.", []string{"database", "node"}, nil)
	gauge := func(name, help string, value func(replica.Status) float64) {
		c.metrics = append(c.metrics, metric{prometheus.NewDesc("skein_replica_"+name, help, []string{"database"}, nil), value})
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
	gauge("orphans_acknowledged", "Row changes that were undone here although a client had been told that they stand.", func(s replica.Status) float64 { return float64(s.OrphansAcknowledged) })
	gauge("orphans", "Row changes that were undone here when an old leader came back.", func(s replica.Status) float64 { return float64(s.Orphans) })
	return c
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.control, c.failed, c.peer, c.lag, c.lagBytes, c.lagSeconds, c.behind, c.cutOff, c.followerCut} {
		out <- d
	}
	for _, m := range c.metrics {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	state := c.node.Control().State()
	show := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	show(c.control, flag(c.node.Control().IsLeader()))
	show(c.failed, flag(c.node.Failure() != nil))
	for _, m := range state.Nodes() {
		if m.ID != c.node.ID() && m.State != catalog.NodeLeft {
			show(c.peer, flag(c.node.Reachable(m.ID)), m.ID.String())
		}
	}
	for _, db := range state.Databases() {
		if db.Dropped || !db.HasReplica(c.node.ID()) {
			continue
		}
		s := replicaStatus(c.node, db)
		for _, m := range c.metrics {
			show(m.desc, m.value(s), db.Name)
		}
		for name, f := range consumersByName(s.Consumers) {
			show(c.behind, float64(f.BehindBytes), db.Name, name)
			show(c.cutOff, f.CutOffIn.Seconds(), db.Name, name)
		}
		for _, f := range s.Followers {
			show(c.followerCut, f.Forecast.CutOffIn.Seconds(), db.Name, f.Node.String())
			show(c.lag, max(0, float64(s.Appended.Seq)-float64(f.Applied)), db.Name, f.Node.String())
			show(c.lagBytes, float64(f.LagBytes), db.Name, f.Node.String())
			show(c.lagSeconds, f.Lag.Seconds(), db.Name, f.Node.String())
		}
	}
}

// consumersByName takes the one that is furthest behind of each name.
func consumersByName(list []replica.Consumer) map[string]replica.Forecast {
	byName := make(map[string]replica.Forecast)
	for _, c := range list {
		if have, ok := byName[c.Name]; !ok || c.Forecast.BehindBytes > have.BehindBytes {
			byName[c.Name] = c.Forecast
		}
	}
	return byName
}
