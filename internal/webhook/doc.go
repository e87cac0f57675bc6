// Package webhook delivers the changes of a database to an HTTP address: batches
// of events, one JSON object a line, in Debezium's envelope, signed, at least once
// and in order.
//
// It owns one delivery each: what was sent and answered, what waits in one batch,
// and when to try again. It knows neither who leads nor where offsets are kept;
// whoever runs a delivery says so. A batch is bounded, and while it is not
// answered with success the stream behind it is held back, so that the log, which
// is kept no longer than its cap, is all the queue there is.
//
// Package node runs deliveries on the nodes that lead.
package webhook
