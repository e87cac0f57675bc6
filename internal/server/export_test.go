package server

// NewCollector shows tests the metrics of a node.
var NewCollector = newCollector
