//! SIGKILL at 50 points spread over a whole restore: the old or the new database is live, whole, and usable, and the
//! next run of any restore command cleans up.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use crate::support::{Server, Site};

/// Where a run is killed.
#[derive(Clone, Debug)]
enum Point {
    /// So long after its start.
    After(Duration),
    /// So long after it said this.
    Said(&'static str, Duration),
}

/// Runs a restore and kills it. Answers whether it was killed before it ended by itself.
fn killed_at(site: &Site, point: &Point) -> bool {
    let mut child = site.command("teslamate-restore").args(&["--yes", "-v", "a.dump"]).spawn();
    let started = Instant::now();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let reader = std::thread::spawn({
        let point = point.clone();
        move || {
            for line in lines.map_while(Result::ok) {
                if matches!(point, Point::Said(words, _) if line.contains(words)) {
                    return;
                }
            }
        }
    });
    match point {
        Point::After(delay) => std::thread::sleep(delay.saturating_sub(started.elapsed())),
        Point::Said(_, delay) => {
            reader.join().unwrap();
            std::thread::sleep(*delay);
        }
    }
    let _ = child.kill();
    let status = child.wait().unwrap();
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(9)
}

#[test]
fn r67_killed_anywhere_the_old_or_the_new_database_is_live_and_whole() {
    let server = Server::shared();
    let database = server.teslamate("kill");
    let site = Site::new(server, &database);
    let new = server.content(&database);
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    let lose =
        || server.query(&database, "UPDATE positions SET drive_id = NULL; DELETE FROM drives; DELETE FROM states");
    lose();
    let old = server.content(&database);

    let started = Instant::now();
    site.run("teslamate-restore", &["--yes", "a.dump"]).expect(0);
    let whole = started.elapsed();
    site.run("teslamate-restore", &["--yes", "--undo"]).expect(0);

    // The end of a run is the swap, which is a few milliseconds: there the words of the run give the time.
    let mut points: Vec<Point> = (0..40).map(|number| Point::After(whole.mul_f64(0.85) * number / 40)).collect();
    for (words, delays) in
        [("stopping teslamate.service", &[0, 1, 3, 8][..]), ("swapping", &[0, 1, 3, 8]), ("swapped", &[0, 1])]
    {
        points.extend(delays.iter().map(|delay| Point::Said(words, Duration::from_millis(*delay))));
    }
    assert_eq!(points.len(), 50);

    let mut table: BTreeMap<(&str, String, bool), u32> = BTreeMap::new();
    for point in &points {
        let killed = killed_at(&site, point);
        let service = site.systemctl.state();
        // Sessions of a killed client end by themselves when the server notices; the names do not wait for that.
        let content = server.content(&database);
        let live = if content == old {
            "old"
        } else if content == new {
            "new"
        } else {
            panic!("neither the old nor the new database is live after {point:?}: {content:?}")
        };
        server.query(&database, "INSERT INTO geofences (name, latitude, longitude, inserted_at, updated_at) VALUES ('usable', 1, 1, now(), now()); DELETE FROM geofences WHERE name = 'usable'");
        *table.entry((live, service.clone(), killed)).or_default() += 1;

        // Any restore command cleans up: here one that then finds nothing else to do, or undoes.
        let next = site.run("teslamate-restore", &["--drill", "a.dump"]).expect(0);
        assert_eq!(site.systemctl.state(), "active", "{point:?}: {}", next.stderr);
        let left = server.databases(&format!("{database}_restore_"));
        assert_eq!(left, Vec::<String>::new(), "{point:?}: {}", next.stderr);
        let role =
            format!("FROM pg_roles WHERE shobj_description(oid, 'pg_authid') LIKE '%database {database} as this role'");
        assert_eq!(server.query("postgres", &format!("SELECT count(*) {role}")), "0", "{point:?}: {}", next.stderr);
        assert_eq!(site.files("state"), Vec::<String>::new(), "{point:?}");
        if live == "new" {
            site.run("teslamate-restore", &["--yes", "--undo"]).expect(0);
            assert_eq!(server.content(&database), old, "{point:?}");
        }
    }
    println!("live database, service, killed: runs");
    for ((live, service, killed), runs) in &table {
        println!("{live}, {service}, {killed}: {runs}");
    }
    let killed: u32 = table.iter().filter(|((_, _, killed), _)| *killed).map(|(_, runs)| runs).sum();
    // A machine that was busy while the whole run was timed, and is not any more, lets some of them end.
    assert!(killed >= 35, "only {killed} runs were killed before they ended: the test proved too little");
    assert!(
        table.keys().any(|(live, ..)| *live == "old") && table.keys().any(|(live, ..)| *live == "new"),
        "{table:?}"
    );
    assert!(table.keys().any(|(_, service, _)| service == "inactive"), "no run was killed with the service stopped");
}
