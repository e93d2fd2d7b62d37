// Package quota keeps the status of ResourceQuotas, and counts what was in a namespace before
// its first quota.
//
// What a namespace uses is in its usage.Record, which the transactions change that create and
// delete objects (kinds.Planner). They cannot know what was there before the record. The
// Controller counts that, in one state of the store, at the revision at which it has read the
// record, and adds the difference: it holds for all later revisions too, so nobody has to wait.
// Every ten minutes it counts again. A difference then would be an error, of this version or of
// one that measured instances otherwise; it is mended and told.
package quota
