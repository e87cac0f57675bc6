// Package changefeed is the vocabulary of change data capture: events,
// their envelope in JSON, and the offsets from which a stream of them goes on.
//
// It owns what an event is, the envelope that docs/cdc.md describes and the
// text form of an offset, which docs/format/offset.md describes. Invariants: an
// offset has one text form; a text that is not exactly one is refused; what an
// offset names is a place between two row changes of one history of one
// database.
//
// It is pure: it must not import a clock, a file, a socket or any package of
// this module but base and jsonvalue.
package changefeed
