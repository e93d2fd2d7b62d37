package rulesv2

import (
	"encoding/json"
	"fmt"

	"virtmesh/raftstore"
)

// Keys of the records that the rules read.
const (
	instancePrefix  = "/claims/vmi/"
	hostPrefix      = "/claims/host/"
	epochPrefix     = "/claims/epoch/"
	capacityPrefix  = "/claims/capacity/"
	migrationPrefix = "/claims/migration/"
	limitsKey       = "/claims/limits"
	floorKey        = "/claims/floor"
)

func instanceKey(uid string) string          { return instancePrefix + uid }
func hostKey(host, uid string) string        { return hostPrefix + host + "/" + uid }
func epochKey(namespace, name string) string { return epochPrefix + namespace + "/" + name }

// The records, with the fields that the rules read.
type (
	instance struct {
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
		UID         string `json:"uid"`
		Host        string `json:"host"`
		Target      string `json:"target"`
		Epoch       uint64 `json:"epoch"`
		TargetEpoch uint64 `json:"targetEpoch"`
	}
	epoch struct {
		Epoch uint64 `json:"epoch"`
		UID   string `json:"uid"`
	}
	floor struct {
		Epoch uint64 `json:"epoch"`
	}
	migration struct {
		VMI    string `json:"vmi"`
		Source string `json:"source"`
		Target string `json:"target"`
	}
	limits struct {
		Total     int `json:"total"`
		PerSource int `json:"perSource"`
		PerTarget int `json:"perTarget"`
	}
)

// hosts returns the hosts that the instance has claims on.
func (i instance) hosts() []string {
	if i.Target == "" {
		return []string{i.Host}
	}
	return []string{i.Host, i.Target}
}

// decode reads the JSON of a record.
func decode[T any](rec raftstore.Record) (T, error) {
	var v T
	if err := json.Unmarshal(rec.Value, &v); err != nil {
		return v, fmt.Errorf("decode %s: %w", rec.Key, err)
	}
	return v, nil
}
