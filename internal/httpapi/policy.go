package httpapi

import (
	"cmp"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// PolicyPatch names some fields of a policy; nil leaves a field as it is.
type PolicyPatch struct {
	Model          *string `json:"model,omitempty"`
	Replicas       *int    `json:"replicas,omitempty"`      // 0: every node
	Durability     *string `json:"durability,omitempty"`    // "quorum", "one received", ...
	DegradeAfter   *string `json:"degrade_after,omitempty"` // a duration; "0s" blocks
	AllowLoss      *bool   `json:"allow_loss,omitempty"`
	MaxLag         *string `json:"max_lag,omitempty"`  // a duration; "0s": any
	Failover       *string `json:"failover,omitempty"` // "automatic" or "manual"
	LogFormat      *string `json:"log_format,omitempty"`
	RetentionBytes *int64  `json:"retention_bytes,omitempty"`
	TxIdleTimeout  *string `json:"tx_idle_timeout,omitempty"`
	TxTotalTimeout *string `json:"tx_total_timeout,omitempty"`
}

// PatchOf names every field of p.
func PatchOf(p base.Policy) PolicyPatch {
	durability := p.Durability.String()
	degrade, idle, total := p.DegradeAfter.String(), p.TxIdleTimeout.String(), p.TxTotalTimeout.String()
	lag, failover := p.MaxLag.String(), string(cmp.Or(p.Failover, base.FailoverAutomatic))
	return PolicyPatch{
		Model: &p.Model, Replicas: &p.Replicas, Durability: &durability, DegradeAfter: &degrade,
		AllowLoss: &p.AllowLoss, MaxLag: &lag, Failover: &failover, LogFormat: &p.LogFormat, RetentionBytes: &p.RetentionBytes,
		TxIdleTimeout: &idle, TxTotalTimeout: &total,
	}
}

// Empty says that the patch names no field.
func (p PolicyPatch) Empty() bool { return p == PolicyPatch{} }

// Apply returns policy with the named fields changed; the result is valid.
func (p PolicyPatch) Apply(policy base.Policy) (base.Policy, error) {
	set(&policy.Model, p.Model)
	set(&policy.Replicas, p.Replicas)
	set(&policy.AllowLoss, p.AllowLoss)
	set(&policy.LogFormat, p.LogFormat)
	set(&policy.RetentionBytes, p.RetentionBytes)
	if p.Failover != nil {
		policy.Failover = base.FailoverMode(*p.Failover)
		if policy.Failover == base.FailoverAutomatic {
			policy.Failover = ""
		}
	}
	if p.Durability != nil {
		d, err := base.ParseDurability(*p.Durability)
		if err != nil {
			return policy, err
		}
		policy.Durability = d
	}
	for _, f := range []struct {
		name  string
		to    *time.Duration
		value *string
	}{
		{"degrade_after", &policy.DegradeAfter, p.DegradeAfter},
		{"max_lag", &policy.MaxLag, p.MaxLag},
		{"tx_idle_timeout", &policy.TxIdleTimeout, p.TxIdleTimeout},
		{"tx_total_timeout", &policy.TxTotalTimeout, p.TxTotalTimeout},
	} {
		if f.value == nil {
			continue
		}
		d, err := time.ParseDuration(*f.value)
		if err != nil {
			return policy, base.Errorf(base.KindInvalid, "%s %q: want a duration such as 500ms, 10s or 2m", f.name, *f.value)
		}
		*f.to = d
	}
	return policy, policy.Validate()
}

func set[T any](to *T, value *T) {
	if value != nil {
		*to = *value
	}
}
