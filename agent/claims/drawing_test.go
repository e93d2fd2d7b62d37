package claims

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"

	"virtmesh/raftstore"
)

// A drawing draws transactions for a recorded log. They are like those of this package,
// and then, often, spoilt in a place: what a rule must refuse is recorded too. It draws
// records and arguments as text and not through this package's types, which may change.
type drawing struct {
	*rand.Rand
	state  raftstore.View
	serial int
}

func newDrawing(state raftstore.View, seed string) *drawing {
	h := fnv.New64a()
	fmt.Fprint(h, seed)
	return &drawing{Rand: rand.New(rand.NewPCG(h.Sum64(), 1)), state: state}
}

func pick[T any](d *drawing, from ...T) T { return from[d.IntN(len(from))] }

// malformed are values that records and arguments must not be taken for.
func malformed() []string {
	return []string{
		"", "{", "null", "[]", "7", `"x"`, "{}", `{"epoch":-1}`, `{"epoch":1e3}`, `{"epoch":18446744073709551616}`, `{"uid":7}`,
		`{"Hosts":"h1"}`, `{"hosts":["h1"]}`, `{"UIDs":[null]}`, `{"Keys":[""]}`, `{"Total":1.0}`, `{"Revision":"1"}`,
		`{"allocatable":{"memoryBytes":"4Gi"}}`, `{"allocatable":null}`, `{"holders":[1]}`, "{\"uid\":\"\xff\"}", `{"uid":"a","uid":"b"}`,
		`{"UID":"a-1","HOST":"h1"}`, `{} {}`, "\x00", `{"known":[{}]}`, "ns/a", "ns/a cpu=", "ns/a cpu=1 ", "ns/a  cpu=1", "a cpu=1", "ns/a cpu=+1", "ns/a gold=1",
		"ns/a memory=9223372036854775807", "ns/a memory=9223372036854775808", "ns/a memory=0x10", "ns/a hugepages:=1 device:=1",
	}
}

// txn draws a transaction that calls a rule.
func (d *drawing) txn() raftstore.Txn {
	d.serial++
	build := pick(d, d.place, d.place, d.place, d.move, d.reserve, d.reserve, d.arrive, d.release, d.publish, d.attach, d.migrate, d.migrate, d.since, d.since, d.raiseFloor, d.tidy, d.takeSpace, d.takeSpace, d.fillDisk, d.publishDisks)
	t := build()
	t.RequestID = fmt.Sprint("r", d.serial)
	for range d.IntN(3) {
		d.spoil(&t)
	}
	return t
}

// spoil changes a transaction so that a rule may have to refuse it.
func (d *drawing) spoil(t *raftstore.Txn) {
	switch d.IntN(9) {
	case 0:
		if len(t.Ops) > 0 {
			i := d.IntN(len(t.Ops))
			t.Ops = append(t.Ops[:i:i], t.Ops[i+1:]...)
		}
	case 1:
		if len(t.Ops) > 0 {
			t.Ops[d.IntN(len(t.Ops))].Value = []byte(pick(d, malformed()...))
		}
	case 2:
		t.Ops = append(t.Ops, raftstore.Op{Key: hostPrefix + d.host() + "/" + d.uid(), Value: []byte(d.entry("ns", "a", 1))})
	case 3:
		t.Ops = append(t.Ops, raftstore.Op{Key: d.anyKey(), Value: []byte(pick(d, malformed()...))})
	case 4:
		if len(t.Constraints) > 0 && d.IntN(3) == 0 {
			t.Constraints[0].Args = []byte(pick(d, malformed()...))
		}
	case 5:
		t.If = append(t.If, raftstore.Condition{Key: d.anyKey()})
	case 6:
		t.Ops = append(t.Ops, raftstore.Op{Key: d.anyKey(), Delete: true})
	}
}

func (d *drawing) host() string { return pick(d, "h1", "h2", "h3", "h4") }
func (d *drawing) name() string { return pick(d, "a", "b", "c") }
func (d *drawing) ns() string   { return pick(d, "ns", "ns", "other") }
func (d *drawing) uid() string  { return fmt.Sprintf("%s-%d", d.name(), d.IntN(4)) }

func (d *drawing) anyKey() string {
	return pick(d, instancePrefix+d.uid(), hostPrefix+d.host()+"/"+d.uid(), epochPrefix+d.ns()+"/"+d.name(),
		capacityPrefix+d.host(), volumePrefix+"ns/disk", spacePrefix+d.host()+"/ns/disk", migrationPrefix+"m1", floorKey, limitsKey)
}

// entry is the text of an entry of a size that hosts have room for, or more than that.
func (d *drawing) entry(ns, name string, epoch uint64) string {
	text := fmt.Sprintf("%s/%s epoch=%d cpu=%d memory=%d", ns, name, epoch, pick(d, 0, 100, 500, 2000), pick(d, int64(0), 1, 2, 5)<<30)
	return text + pick(d, "", "", "", "", "", "", " ephemeral=1000", d.spoiltWord(), " hugepages:2Mi=4194304", " device:gpu=1", " device:gpu=1 device:fpga=1")
}

// spoiltWord is seldom a word that an entry must not have.
func (d *drawing) spoiltWord() string {
	if d.IntN(3) > 0 {
		return ""
	}
	return pick(d, " gold=1", " memory=9223372036854775807", " memory=-1")
}

// call returns the call of a rule, with arguments in JSON.
func call(rule string, version uint32, format string, args ...any) raftstore.ConstraintCall {
	return raftstore.ConstraintCall{Name: rule, Version: version, Args: fmt.Appendf(nil, format, args...)}
}

func put(key, format string, args ...any) raftstore.Op {
	return raftstore.Op{Key: key, Value: fmt.Appendf(nil, format, args...)}
}

// read reads a record, if there is one that can be read.
func (d *drawing) read(key string) (rec struct {
	Epoch, TargetEpoch           uint64
	UID, Host, Target, Namespace string
	Name                         string
}, revision uint64) {
	stored, ok := d.state.Get(key)
	if !ok {
		return rec, 0
	}
	_ = json.Unmarshal(stored.Value, &rec) // what cannot be read is drawn on as if it were empty
	return rec, stored.ModRevision
}

func (d *drawing) require(key string) raftstore.Condition {
	_, revision := d.read(key)
	return raftstore.Condition{Key: key, ModRevision: revision}
}

// once is a call of one of the versions of vmi-once.
func (d *drawing) once(uids ...string) raftstore.ConstraintCall {
	list, _ := json.Marshal(uids) // strings can be encoded
	return call(RuleVMIOnce, pick[uint32](d, 1, 2, 3, 3, 3), `{"UIDs":%s}`, list)
}

// place gives an instance a host, sometimes a target too.
func (d *drawing) place() raftstore.Txn {
	ns, name, host, uid := d.ns(), d.name(), d.host(), d.uid()
	epochKey := epochPrefix + ns + "/" + name
	last, _ := d.read(epochKey)
	epoch := last.Epoch + 1
	if lowest, _ := d.read(floorKey); last.Epoch == 0 && d.IntN(4) > 0 {
		epoch = lowest.Epoch + 1
	}
	t := raftstore.Txn{If: []raftstore.Condition{d.require(epochKey)}, Ops: []raftstore.Op{
		put(instancePrefix+uid, `{"namespace":%q,"name":%q,"uid":%q,"host":%q,"target":%q,"epoch":%d}`, ns, name, uid, host, pick(d, "", "", "", "", "", host, "h2"), epoch),
		put(hostPrefix+host+"/"+uid, "%s", d.entry(ns, name, epoch)),
		put(epochKey, `{"epoch":%d,"uid":%q}`, epoch, uid),
	}}
	if d.IntN(2) == 0 {
		t.If = append(t.If, raftstore.Condition{Key: instancePrefix + uid})
	}
	capacity := call(RuleHostCapacity, 1, `{"Hosts":[%q]}`, pick(d, host, host, d.host()))
	if d.IntN(2) == 0 {
		t.Constraints = []raftstore.ConstraintCall{capacity, d.once(uid)}
	} else {
		t.Constraints = []raftstore.ConstraintCall{d.once(uid), capacity}
	}
	return t
}

// claimed returns an instance that has a claim, or one that has none.
func (d *drawing) claimed() (uid, ns, name, host string, epoch uint64) {
	var uids []string
	d.state.Ascend(instancePrefix, func(rec raftstore.Record) bool {
		uids = append(uids, rec.Key[len(instancePrefix):])
		return true
	})
	uid = d.uid()
	if len(uids) > 0 {
		uid = pick(d, uids...)
	}
	in, _ := d.read(instancePrefix + uid)
	return uid, in.Namespace, in.Name, in.Host, in.Epoch
}

// move gives an instance another host, with or without a new epoch.
func (d *drawing) move() raftstore.Txn {
	uid, ns, name, from, epoch := d.claimed()
	to := d.host()
	epoch += uint64(d.IntN(2))
	return raftstore.Txn{If: []raftstore.Condition{d.require(instancePrefix + uid)}, Ops: []raftstore.Op{
		{Key: hostPrefix + from + "/" + uid, Delete: true},
		put(instancePrefix+uid, `{"namespace":%q,"name":%q,"uid":%q,"host":%q,"epoch":%d}`, ns, name, uid, to, epoch),
		put(hostPrefix+to+"/"+uid, "%s", d.entry(ns, name, epoch)),
		put(epochPrefix+ns+"/"+name, `{"epoch":%d,"uid":%q}`, epoch, uid),
	}, Constraints: []raftstore.ConstraintCall{d.once(uid), call(RuleHostCapacity, 1, `{"Hosts":[%q]}`, to)}}
}

// reserve gives an instance a target with an epoch, the next one or another.
func (d *drawing) reserve() raftstore.Txn {
	uid, ns, name, host, epoch := d.claimed()
	target := d.host()
	last, _ := d.read(epochPrefix + ns + "/" + name)
	next := last.Epoch + pick[uint64](d, 1, 1, 1, 0, 2)
	return raftstore.Txn{If: []raftstore.Condition{d.require(instancePrefix + uid), d.require(epochPrefix + ns + "/" + name)}, Ops: []raftstore.Op{
		put(instancePrefix+uid, `{"namespace":%q,"name":%q,"uid":%q,"host":%q,"target":%q,"epoch":%d,"targetEpoch":%d}`, ns, name, uid, host, target, epoch, next),
		put(hostPrefix+target+"/"+uid, "%s", d.entry(ns, name, next)),
		put(epochPrefix+ns+"/"+name, `{"epoch":%d,"uid":%q}`, last.Epoch+1, uid),
	}, Constraints: []raftstore.ConstraintCall{d.once(uid), call(RuleHostCapacity, 1, `{"Hosts":[%q]}`, target)}}
}

// arrive makes the target of an instance its host, or gives the target up.
func (d *drawing) arrive() raftstore.Txn {
	uid, ns, name, _, _ := d.claimed()
	in, _ := d.read(instancePrefix + uid)
	gone, stays, epoch := in.Host, in.Target, in.TargetEpoch
	if stays == "" || d.IntN(2) == 0 {
		gone, stays, epoch = in.Target, in.Host, in.Epoch
	}
	return raftstore.Txn{If: []raftstore.Condition{d.require(instancePrefix + uid)}, Ops: []raftstore.Op{
		{Key: hostPrefix + gone + "/" + uid, Delete: true},
		put(instancePrefix+uid, `{"namespace":%q,"name":%q,"uid":%q,"host":%q,"epoch":%d,"targetEpoch":%d}`, ns, name, uid, stays, epoch, pick[uint64](d, 0, 0, 0, 0, epoch)),
	}, Constraints: []raftstore.ConstraintCall{d.once(uid)}}
}

// release ends the claim of an instance.
func (d *drawing) release() raftstore.Txn {
	uid, _, _, host, _ := d.claimed()
	in, _ := d.read(instancePrefix + uid)
	return raftstore.Txn{If: []raftstore.Condition{d.require(instancePrefix + uid)}, Ops: []raftstore.Op{
		{Key: instancePrefix + uid, Delete: true}, {Key: hostPrefix + host + "/" + uid, Delete: true}, {Key: hostPrefix + in.Target + "/" + uid, Delete: true},
	}, Constraints: []raftstore.ConstraintCall{d.once(uid, d.uid())}}
}

// publish sets the capacity of a host.
func (d *drawing) publish() raftstore.Txn {
	host := d.host()
	return raftstore.Txn{Ops: []raftstore.Op{put(capacityPrefix+host,
		`{"host":%q,"allocatable":{"cpuMilli":%d,"memoryBytes":%d,"ephemeralBytes":%d%s}}`, host, pick(d, 1000, 8000), pick(d, int64(2), 8, 16)<<30, pick(d, 0, 5000),
		pick(d, "", `,"hugepages":{"2Mi":8388608}`, `,"devices":{"gpu":2}`, `,"devices":{"gpu":1,"fpga":1},"gold":1`))},
		Constraints: []raftstore.ConstraintCall{call(RuleHostCapacity, 1, `{"Hosts":[%q]}`, pick(d, host, d.host()))}}
}

// attach sets the holders of a volume.
func (d *drawing) attach() raftstore.Txn {
	uid, _, _, _, _ := d.claimed()
	other, _, _, _, _ := d.claimed()
	holders := pick(d, fmt.Sprintf("%q", uid), fmt.Sprintf("%q,%q", uid, other), fmt.Sprintf("%q", d.uid()), "")
	key := volumePrefix + "ns/" + pick(d, "disk", "data")
	return raftstore.Txn{Ops: []raftstore.Op{put(key, `{"namespace":"ns","claim":"disk","shared":%v,"holders":[%s]}`, d.IntN(3) == 0, holders)},
		Constraints: []raftstore.ConstraintCall{call(RuleVolumeOnce, 1, `{"Keys":[%q,"/claims/volume/ns/none"]}`, key)}}
}

// publishDisks sets the capacity of a host with its file systems.
func (d *drawing) publishDisks() raftstore.Txn {
	host := d.host()
	return raftstore.Txn{Ops: []raftstore.Op{put(capacityPrefix+host,
		`{"host":%q,"allocatable":{"cpuMilli":8000,"memoryBytes":%d,"ephemeralBytes":5000},"disks":[{"state":true,"pools":["local"],"bytes":%d},{"pools":["fast","faster"],"bytes":%d}%s]}`,
		host, int64(16)<<30, pick(d, 3000, 6000), pick(d, 2000, 5000), pick(d, "", "", `,{"bytes":1}`, `,{"state":true,"bytes":"1"}`))},
		Constraints: []raftstore.ConstraintCall{call(RulePoolCapacity, 1, `{"Host":%q,"Pools":["local","fast"],"State":true}`, host)}}
}

// takeSpace takes or frees the room of a volume.
func (d *drawing) takeSpace() raftstore.Txn {
	host, pool := d.host(), pick(d, "local", "fast", "faster", "nfs")
	key := spacePrefix + host + "/" + d.ns() + "/" + pick(d, "disk", "data", "more")
	t := raftstore.Txn{
		Ops:         []raftstore.Op{put(key, `{"pool":%q,"bytes":%s}`, pool, pick(d, "500", "1000", "1500", "9223372036854775807", "-1"))},
		Constraints: []raftstore.ConstraintCall{call(RulePoolCapacity, 1, `{"Host":%q,"Pools":[%q],"State":false}`, host, pick(d, pool, pool, "local"))},
	}
	if d.IntN(3) == 0 {
		t.Ops = []raftstore.Op{{Key: key, Delete: true}}
	}
	return t
}

// fillDisk places an instance with an empty disk, or removes one.
func (d *drawing) fillDisk() raftstore.Txn {
	host := d.host()
	key := hostPrefix + host + "/" + d.uid()
	t := raftstore.Txn{
		Ops:         []raftstore.Op{put(key, "ns/a epoch=1 cpu=0 memory=0 ephemeral=%s", pick(d, "500", "1000", "2500", "x", "-1"))},
		Constraints: []raftstore.ConstraintCall{call(RulePoolCapacity, 1, `{"Host":%q,"Pools":null,"State":true}`, host)},
	}
	if d.IntN(2) == 0 {
		t.Ops = []raftstore.Op{{Key: key, Delete: true}}
	}
	return t
}

// migrate takes or frees a slot.
func (d *drawing) migrate() raftstore.Txn {
	uid, _, _, host, _ := d.claimed()
	m := migrationPrefix + pick(d, "m1", "m2", "m3", "m4", "m5")
	t := raftstore.Txn{
		Ops:         []raftstore.Op{put(m, `{"uid":"m","vmi":%q,"source":%q,"target":%q}`, pick(d, uid, "x", "y", "z"), pick(d, host, d.host()), d.host())},
		Constraints: []raftstore.ConstraintCall{call(RuleMigrationSlots, 1, `{"Total":%d,"PerSource":%d}`, 1+d.IntN(4), 1+d.IntN(3))},
	}
	if d.IntN(2) == 0 {
		t.Constraints[0] = call(RuleMigrationSlots, 2, "{}")
	}
	switch d.IntN(6) {
	case 0, 1:
		t.Ops = []raftstore.Op{{Key: m, Delete: true}}
	case 2, 3:
		t.Ops = append(t.Ops, put(limitsKey, `{"total":%d,"perSource":%d,"perTarget":%d}`, 1+d.IntN(4), 1+d.IntN(3), 1+d.IntN(3)))
	}
	return t
}

// since makes a decision on an old view.
func (d *drawing) since() raftstore.Txn {
	uid, _, _, host, _ := d.claimed()
	var newest uint64
	d.state.Ascend(Prefix, func(rec raftstore.Record) bool { newest = max(newest, rec.ModRevision); return true })
	revision := newest - min(newest, uint64(d.IntN(40)))
	return raftstore.Txn{Ops: []raftstore.Op{put(guardPrefix+"ns", `{"uid":%q}`, uid)}, Constraints: []raftstore.ConstraintCall{
		call(RulePlacedSince, pick[uint32](d, 1, 2, 2), `{"Namespaces":[%q],"Revision":%d,"Known":[{"UID":%q,"Host":%q},{"UID":%q,"Host":%q}]}`,
			pick(d, "ns", "other", AllNamespaces), revision, uid, host, uid, d.host())}}
}

// raiseFloor forgets the epoch of a name.
func (d *drawing) raiseFloor() raftstore.Txn {
	key := epochPrefix + d.ns() + "/" + d.name()
	last, _ := d.read(key)
	return raftstore.Txn{If: []raftstore.Condition{d.require(key)}, Ops: []raftstore.Op{
		{Key: key, Delete: true}, put(floorKey, `{"epoch":%d}`, last.Epoch),
	}, Constraints: []raftstore.ConstraintCall{d.once(last.UID)}}
}

// tidy removes what spoilt transactions have left on a host, so that the rules accept
// something there again.
func (d *drawing) tidy() raftstore.Txn {
	host := d.host()
	t := raftstore.Txn{Ops: []raftstore.Op{put(capacityPrefix+host, `{"host":%q,"allocatable":{"cpuMilli":9000,"memoryBytes":9000000000}}`, host)}}
	for _, prefix := range []string{hostPrefix + host + "/", migrationPrefix, floorKey} {
		d.state.Ascend(prefix, func(rec raftstore.Record) bool {
			t.Ops = append(t.Ops, raftstore.Op{Key: rec.Key, Delete: true})
			return true
		})
	}
	return t
}
