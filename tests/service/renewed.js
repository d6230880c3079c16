// What `renew` of dom.js does, against `put`: the same content, and what stays is kept.
const done = arguments[arguments.length - 1];
import("/dashboard/static/dom.js").then(({h, put, renew}) => {
    let seed = 7;
    const chance = (most) => (seed = (seed * 16807) % 2147483647) % most;
    const item = (key) => h(["li", "p"][chance(2)], {"data-key": key, class: `c${chance(2)}`},
        chance(2) && "text", h("a", {href: `#${key}`}, key), chance(3) || null);
    const failures = [];
    for (let n = 0; n < 500; n++) {
        const box = document.body.appendChild(h("div", {}));
        const lists = [0, 1].map(() => [..."abcdefg"].filter(() => chance(2))
            .sort(() => chance(3) - 1).map((key) => item(chance(4) ? key : undefined)));
        put(box, lists[0]);
        const wanted = put(h("div", {}), lists[1].map((each) => each.cloneNode(true)));
        const links = new Map([...box.children].filter((e) => e.dataset.key)
            .map((e) => [e.dataset.key, e]));
        renew(box, lists[1]);
        if (box.innerHTML !== wanted.innerHTML) failures.push(wanted.innerHTML, box.innerHTML);
        for (const e of box.children) {
            const before = links.get(e.dataset.key);
            if (before && before.nodeName === e.nodeName && before !== e) failures.push("lost");
        }
        box.remove();
    }
    const rows = (keys) => keys.map((key) => h("li", {"data-key": key}, h("a", {href: "#/"}, key)));
    const list = document.getElementById("main").appendChild(put(h("ul", {}), rows(["b", "c"])));
    const link = list.firstChild.firstChild;
    link.focus();
    renew(list, rows(["a", "b", "c"]));
    if (document.activeElement !== link) failures.push("focus");
    list.remove();
    done(failures);
}, (error) => done([String(error)]));
