package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/skeindb/skein/internal/httpapi"
)

// writeConsumers lists who reads the log as a stream, and which followers and
// consumers would lose their place in it.
func writeConsumers(to io.Writer, d httpapi.DatabaseStatus, names names) {
	tab := table(to)
	head := "  CONSUMER\tOF\tAT\tBEHIND\tCUT OFF\n"
	for _, r := range d.Replicas {
		for _, c := range r.Consumers {
			fmt.Fprintf(tab, "%s  %s\t%s\t%d\t%s\t%s\n", head, c.Name, r.NodeName, c.At, bytesText(c.BehindBytes), cutOff(c.Forecast))
			head = ""
		}
	}
	tab.Flush()
	for _, r := range d.Replicas {
		for _, f := range r.Followers {
			if lacks := int64(r.AppliedSeq) - int64(f.Applied); lacks > 0 && silent(d, f.Node) {
				fmt.Fprintf(to, "  Follower %s lacks %d row changes (%s), for %s, as its leader sees it\n", names.of(f.Node), lacks, bytesText(f.LagBytes), seconds(f.LagSeconds))
			}
			if f.CutOff || f.CutOffSeconds > 0 && f.CutOffSeconds < soonCutOff {
				fmt.Fprintf(to, "  Follower %s is %s of log behind; cut off: %s\n", names.of(f.Node), bytesText(f.BehindBytes), cutOff(f.Forecast))
			}
		}
	}
}

// silent says that a replica does not answer for itself.
func silent(d httpapi.DatabaseStatus, node string) bool {
	return slices.ContainsFunc(d.Replicas, func(r httpapi.ReplicaStatus) bool { return r.Node == node && !r.Known })
}

// soonCutOff is from when on a follower's cut-off is worth a line, in seconds.
const soonCutOff = 3600

// cutOff says when what somebody needs of the log is gone.
func cutOff(f httpapi.Forecast) string {
	switch {
	case f.CutOff:
		return "now: what it needs next is gone"
	case f.CutOffSeconds > 0 && f.CutOffSeconds < 365*86400:
		return "in " + seconds(f.CutOffSeconds) + " if it reads no more"
	}
	return "-"
}
