package registry

import (
	"fmt"
	"slices"
	"strings"

	"samehost/internal/hostid"
)

// Sentence says what the verb says of the systems that a conflict is about.
func (v Verb) Sentence(l Language) string { return sentence("verb-"+string(v), hostid.ID{}, nil, l) }

// Sentence says what the order has its host do.
func (o Order) Sentence(l Language) string {
	return sentence("ordered", o.HostID, []byte(toJSON(map[string]any{"order": o.Kind})), l)
}

var previewWords = map[Language]struct{ asset, factsOf, same, order, orders, other, joins, blocked, nobody, and string }{
	English: {
		asset: "Asset %q has the host IDs %s then.", factsOf: " Its facts are those of host ID %s.",
		same:  "No asset changes before a PC has done what it is told.",
		order: "Host ID %s is told to %s", orders: "%[3]d systems under host ID %[1]s are told to %[2]s", other: " It is host ID %s.",
		joins: " What becomes of it joins the asset.", blocked: "Reports of host ID %s are kept, and change nothing.",
		nobody: "No PC has to be told anything; the conflict closes at once.", and: ", ",
	},
	Japanese: {
		asset: "資産 %q のホスト識別子は %s になります。", factsOf: "ハードウェア情報はホスト識別子 %s のものになります。",
		same:  "PC が指示を実行するまで、資産は変わりません。",
		order: "ホスト識別子 %s への指示: %s", orders: "ホスト識別子 %[1]s の %[3]d 個のシステムへの指示: %[2]s", other: "対象はホスト識別子 %s です。",
		joins: "実行した結果は同じ資産に統合されます。", blocked: "ホスト識別子 %s の報告は保管しますが、何にも反映しません。",
		nobody: "PC への指示は必要なく、競合はすぐに終了します。", and: "、",
	},
}

// Sentences tell what the verb would do: first to assets, then to PCs.
func (p Preview) Sentences(l Language) []string {
	words, ok := previewWords[l]
	if !ok {
		l, words = English, previewWords[English]
	}
	var all []string
	for _, a := range p.After {
		was := slices.IndexFunc(p.Before, func(b PreviewAsset) bool { return sameHosts(a.HostIDs, b.HostIDs) })
		if was >= 0 && p.Before[was].FactsOf == a.FactsOf {
			continue
		}
		var ids []string
		for _, id := range a.HostIDs {
			ids = append(ids, id.String())
		}
		text := fmt.Sprintf(words.asset, a.Name, strings.Join(ids, words.and))
		if !a.FactsOf.IsZero() {
			text += fmt.Sprintf(words.factsOf, a.FactsOf)
		}
		all = append(all, text)
	}
	for _, id := range p.Blocked {
		all = append(all, fmt.Sprintf(words.blocked, id))
	}
	if len(all) == 0 && len(p.Orders) > 0 {
		all = append(all, words.same)
	}
	for _, o := range p.Orders {
		form := words.order
		if o.Lines > 1 {
			form = words.orders
		}
		args := []any{o.HostID, sentence("order-"+string(o.Kind), hostid.ID{}, nil, l), o.Lines}
		if o.Lines == 1 {
			args = args[:2]
		}
		text := fmt.Sprintf(form, args...)
		if !o.Other.IsZero() {
			text += fmt.Sprintf(words.other, o.Other)
		}
		if o.Joins {
			text += words.joins
		}
		all = append(all, text)
	}
	if len(p.Orders) == 0 {
		all = append(all, words.nobody)
	}
	return all
}

func sameHosts(a, b []hostid.ID) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(id hostid.ID) bool { return !slices.Contains(b, id) })
}

var ruleWords = map[string]struct{ en, ja string }{
	"other-board": {
		"The right key on another board: the main board was replaced if disk and case are the known ones, and nobody else is heard.",
		"鍵は正しいが基板が異なる場合: ディスクと筐体が登録済みのもので、ほかの報告がなければ、マザーボードの交換とします。"},
	"same-board": {
		"A new host ID on the board of another asset: the same PC if two board facts agree, none differs, and the other one is silent.",
		"新しいホスト識別子が別の資産の基板から報告した場合: 基板の情報が二つ以上一致し、異なるものがなく、相手の報告が途絶えていれば、同一の PC とします。"},
	"replacement": {
		"A statement to have replaced a host ID that proves nothing: believed if the evidence suffices for same-board.",
		"ホスト識別子を置き換えたという申告が証明にならない場合: 根拠が same-board の条件を満たせば、申告を認めます。"},
}

// Sentence says what the rule decides, if it may.
func (u Rule) Sentence(l Language) string {
	if l == Japanese {
		return ruleWords[u.Name].ja
	}
	return ruleWords[u.Name].en
}
