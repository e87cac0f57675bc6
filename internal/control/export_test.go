package control

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/skeindb/skein/internal/base"
)

// SealRaft makes a message as a peer would send it.
func SealRaft(cluster uint64, from, to base.NodeID, m *raftpb.Message) []byte {
	body, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return envelope{kind: kindRaft, cluster: cluster, from: from, to: to, body: body}.encode()
}

// SealRequest makes a request as a peer would.
func SealRequest(cluster uint64, from, to base.NodeID, body []byte) []byte {
	return envelope{kind: kindRequest, cluster: cluster, from: from, to: to, body: body}.encode()
}

// OpenRaft returns the message of the group that msg carries, or nil.
func OpenRaft(msg []byte) *raftpb.Message {
	e, err := decodeEnvelope(msg)
	if err != nil || e.kind != kindRaft {
		return nil
	}
	m := new(raftpb.Message)
	if proto.Unmarshal(e.body, m) != nil {
		return nil
	}
	return m
}

// IdentitySum is the checksum of an identity row, as SQL.
func IdentitySum(version, cluster, node uint64) string {
	return fmt.Sprint(rowSum("identity", []base.Value{number(version), number(cluster), number(node)}))
}
