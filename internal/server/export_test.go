package server

// NewCollector shows tests the metrics of a node.
var NewCollector = newCollector

// ReplayOrphan lets tests replay what no failover has undone.
var ReplayOrphan = replayOrphan
