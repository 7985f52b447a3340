package registry

import (
	"fmt"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// A client whose data was written on another board and another disk takes itself for a copy, and a new host ID. It may be
// mistaken: a PC whose disk was replaced by a copy, and whose board was replaced before it could tell, is as alone with its data as
// it was before. What tells the two apart is that a copy has an original, which goes on reporting. So where the original was not
// heard for three intervals in which its copy was, and nothing tells their cases apart, an operator is asked. Who was installed
// from the image of a PC that is no more is a copy all the same, with many beside it: where the cases are unknown one of them asks
// for all.

// wonder asks about a host that took itself for a copy, or reports that it may have to ask later.
func (t *transaction) wonder(v checkin.VerifiedReport, h host, b branch) (later bool, err error) {
	original, err := t.copiedFrom(h)
	if err != nil || original.IsZero() {
		return false, err
	}
	o, known, err := t.host(original)
	if err != nil || !known || o.asset == h.asset || o.marks.deleted != 0 || o.marks.retired != 0 || o.marks.succeeded != 0 {
		return false, err
	}
	since := fromMillis(h.enrolled)
	if o.last.After(since) {
		return false, nil
	}
	mine, its := t.evidence(h.facts).Facts(hostid.ID{}), t.evidence(o.facts).Facts(hostid.ID{})
	if hostid.AnotherCase(its, mine) {
		return false, nil
	}
	whose := original.String()
	if hostid.SameCase(its, mine) {
		whose = h.id.String() + " " + whose
	}
	asked, err := t.get(`SELECT 1 FROM conflicts WHERE kind = 'observed' AND subject = $1 LIMIT 1`, []any{copiedSubject + whose}, []any{new(int)})
	if err != nil || asked {
		return false, err
	}
	if apart, err := t.keptApart("hosts", hostPair(h.id, original), nil); err != nil || apart {
		return false, err
	}
	if t.now.Sub(since) < t.reg.silence() || t.now.Sub(o.last) < t.reg.silence() {
		return true, nil
	}
	if err := t.wake(`host_id = $1`, original.String()); err != nil { // if it is heard after all, that is to be noticed
		return false, err
	}
	evidence := observed(v, h, checkin.Observation{Kind: string(hostid.Copied), Mine: h.id, Other: original,
		Detail: fmt.Sprintf("data copied from host ID %s, which has not been heard since; nothing tells the cases apart", original)})
	evidence["why"], evidence["known"], evidence["other_name"], evidence["other_heard"] = "copied", o.facts, o.seen.Name, o.last
	evidence["name"] = v.Report.Names.Host
	_, err = t.openConflict(conflict{kind: "observed", subject: copiedSubject + whose, asset: h.asset, host: h.id, other: o.asset, otherHost: o.id,
		lines: []int64{b.id}, evidence: evidence})
	return false, err
}

const copiedSubject = "copied from "

// copiedFrom is the host ID of which this one took itself for a copy, by itself and not by order; zero for none.
func (t *transaction) copiedFrom(h host) (hostid.ID, error) {
	var other string
	_, err := t.get(`SELECT o.other FROM epochs e JOIN observations o ON o.epoch_id = e.id
		WHERE e.host_id = $1 AND e.proven AND o.kind = $2 AND o.mine = $1 ORDER BY e.id LIMIT 1`, []any{h.id.String(), string(hostid.Copied)}, []any{&other})
	if err != nil {
		return hostid.ID{}, err
	}
	return parseID(other)
}

// isOriginal closes the questions whether others are this host, since it is heard beside them.
func (t *transaction) isOriginal(h host) error {
	type open struct {
		id   int64
		host string
	}
	all, err := collect(t, func(scan func(...any) error) (o open, err error) { return o, scan(&o.id, &o.host) },
		`SELECT id, host_id FROM conflicts WHERE other_host = $1 AND kind = 'observed' AND subject LIKE $2 AND closed IS NULL AND resolution IS NULL ORDER BY id`,
		h.id.String(), copiedSubject+"%")
	if err != nil {
		return err
	}
	for _, o := range all {
		host, err := hostid.ParseID(o.host)
		if err != nil {
			return err
		}
		if err := t.closeConflict(o.id, "observed", host, "conflict-original"); err != nil {
			return err
		}
	}
	return nil
}
