//! Completing charges in the database, sentence by sentence of `docs/closing.md`; expected values are worked out by hand.
//!
//! Readings every 360 s make the arithmetic easy: a span is a tenth of an hour, sixteen readings are 1.5 hours.

use std::fmt::Write as _;

use super::support::cases::{READINGS, assignments, differences, insert, rows, run_sql, time, verdict};
use super::support::{Server, Site};

/// A charge: its name, its readings, its row before, its geofence's tariff, and what its row holds afterwards.
///
/// Car 1 pays; car 2 has free supercharging. Every charge stands in geofence 1, which has a price; unless a tariff is
/// given, its own `geofence_id` is null.
struct Case(&'static str, &'static str, &'static str, &'static str, &'static str);

const COMPLETED: &[Case] = &[
    // The whole of an ordinary one.
    Case(
        "everything comes from the readings",
        "+0 a=0 kw=10 i=300 r=290 l=50 t=10 | +1800 a=4 kw=10 i=320 r=310 l=60 t=13 \
         | +3600 a=9.5 kw=10 i=350 r=340 l=70 t=13",
        "address_id=2",
        "",
        "start_date=+0 end_date=+3600 start_ideal_range_km=300 end_ideal_range_km=350 start_rated_range_km=290 \
         end_rated_range_km=340 start_battery_level=50 end_battery_level=70 outside_temp_avg=12 duration_min=60 \
         charge_energy_added=9.5 charge_energy_used=10 cost=null geofence_id=null address_id=2 position_id=1 car_id=1",
    ),
    Case(
        "first and last go by date, never by id",
        "+3600 a=9.5 kw=10 i=350 l=70 | +0 a=1 i=300 l=50",
        "",
        "",
        "start_date=+0 end_date=+3600 start_ideal_range_km=300 end_ideal_range_km=350 start_battery_level=50 \
         end_battery_level=70 charge_energy_added=8.5 charge_energy_used=10",
    ),
    Case(
        "what the first and last reading do not have becomes null",
        "+0 a=0 i=300 | +60 a=1 i=310 r=300 l=60 t=10 | +120 a=2 i=320",
        "start_rated_range_km=1 end_rated_range_km=2 start_battery_level=3 end_battery_level=4",
        "",
        "start_rated_range_km=null end_rated_range_km=null start_battery_level=null end_battery_level=null \
         outside_temp_avg=10",
    ),
    Case(
        "completed already: recomputed and overwritten, also with null",
        "+0 a=0 kw=6 l=50 | +3600 a=5 kw=6 l=60",
        "start_date=+7 end_date=+8 charge_energy_added=99 charge_energy_used=98 start_ideal_range_km=1 \
         end_ideal_range_km=2 duration_min=77 outside_temp_avg=9.9 cost=12.5",
        "",
        "start_date=+0 end_date=+3600 charge_energy_added=5 charge_energy_used=6 start_ideal_range_km=300 \
         end_ideal_range_km=300 duration_min=60 outside_temp_avg=null cost=null",
    ),
    // No readings.
    Case(
        "without readings it ends now, and nothing else is known",
        "",
        "start_date=+5 start_battery_level=11 end_battery_level=12 duration_min=13 outside_temp_avg=1.5 \
         start_ideal_range_km=1 end_ideal_range_km=2 start_rated_range_km=3 end_rated_range_km=4 \
         charge_energy_added=5 charge_energy_used=6 cost=7 address_id=2",
        "per_kwh price=0.3 fee=1",
        "start_date=+5 start_battery_level=11 end_battery_level=12 duration_min=13 outside_temp_avg=1.5 \
         start_ideal_range_km=1 end_ideal_range_km=2 start_rated_range_km=3 end_rated_range_km=4 \
         charge_energy_added=null charge_energy_used=null cost=null address_id=2 position_id=1 car_id=1",
    ),
    Case("without readings a price per minute is not missed", "", "cost=7", "per_minute fee=2", "cost=null"),
    Case(
        "without readings nothing is charged per minute",
        "",
        "duration_min=13",
        "per_minute price=1 fee=2",
        "cost=null duration_min=13",
    ),
    Case("without readings nothing is free either", "", "car_id=2 cost=7", "", "cost=null"),
    // Energy added.
    Case("added is last minus first", "+0 a=2 | +60 a=9 | +120 a=7", "", "", "charge_energy_added=5"),
    Case(
        "a last counter of 0 gives way to the highest",
        "+0 a=2 | +60 a=7 | +120 a=0",
        "",
        "",
        "charge_energy_added=5",
    ),
    Case("counters of 0 throughout are 0", "+0 a=0 | +60 a=0", "", "", "charge_energy_added=0"),
    Case("a counter that stands still is 0", "+0 a=3 | +60 a=3", "", "", "charge_energy_added=0"),
    Case("a counter that falls is null", "+0 a=5 | +60 a=3", "charge_energy_added=4", "", "charge_energy_added=null"),
    Case(
        "one reading adds 0",
        "+0 a=5",
        "",
        "",
        "charge_energy_added=0 charge_energy_used=null duration_min=0 start_date=+0 end_date=+0",
    ),
    // Duration and temperature.
    Case("29 s are 0 minutes", "+0 | +29", "", "", "duration_min=0"),
    Case("30 s are 1 minute", "+0 | +30", "", "", "duration_min=1"),
    Case("150 s are 3 minutes", "+0 | +150", "", "", "duration_min=3"),
    Case("149.999 s are 2 minutes", "+0 | +149.999", "", "", "duration_min=2"),
    Case("32767 minutes fit", "+0 | +1966020", "", "", "duration_min=32767"),
    Case("-20.05 degrees are -20.1", "+0 t=-20.0 | +9 | +60 t=-20.1", "", "", "outside_temp_avg=-20.1"),
    Case("20.25 degrees are 20.3", "+0 t=20.2 | +60 t=20.3", "", "", "outside_temp_avg=20.3"),
    // Energy used, by the charger's power.
    Case("the power of a span is that of the later reading", "+0 kw=100 | +1800 kw=4", "", "", "charge_energy_used=2"),
    Case("spans are weighted by time", "+0 | +3600 kw=2 | +5400 kw=8", "", "", "charge_energy_used=6"),
    Case("no power at all is 0", "+0 | +3600", "", "", "charge_energy_used=0"),
    Case("spans with negative energy are left out", "+0 | +3600 kw=-5 | +7200 kw=10", "", "", "charge_energy_used=10"),
    Case(
        "nothing but negative spans is null",
        "+0 | +3600 kw=-5",
        "charge_energy_used=3",
        "",
        "charge_energy_used=null",
    ),
    Case("half a hundredth rounds up", "+0 | +18 kw=1", "", "", "charge_energy_used=0.01"),
    Case(
        "the sum is rounded, not the spans",
        "+0 | +14.4 kw=1 | +28.8 kw=1 | +43.2 kw=1",
        "",
        "",
        "charge_energy_used=0.01",
    ),
    // Energy used, by phases. 16 A at 230 V are 3.68 kW a phase.
    Case(
        "the phases of the readings fit the power: 3 x 3.68 kW",
        "+0..5400/360 kw=11 ph=3 A=16 V=230",
        "",
        "",
        "charge_energy_used=16.56",
    ),
    Case(
        "fifteen readings are too few to tell",
        "+0..5040/360 kw=11 ph=3 A=16 V=230",
        "",
        "",
        "charge_energy_used=15.4",
    ),
    Case("sqrt(3): p is 1.63, 6 % off it", "+0..5400/360 kw=6 ph=3 A=16 V=230", "", "", "charge_energy_used=9.56"),
    Case(
        "sqrt(3) at its lower edge: p is 1.56",
        "+0..5400/360 kw=39 ph=3 A=100 V=250",
        "",
        "",
        "charge_energy_used=64.95",
    ),
    Case(
        "13 % off sqrt(3) and half a phase off 2: undetermined",
        "+0..5400/360 kw=6 ph=3 A=20 V=200",
        "",
        "",
        "charge_energy_used=9",
    ),
    Case(
        "only three phases are ever sqrt(3): p is 1.75, one phase becomes two",
        "+0..5400/360 kw=35 ph=1 A=100 V=200",
        "",
        "",
        "charge_energy_used=60",
    ),
    Case(
        "1.7 is, as a double, a hair more than 0.3 below 2: undetermined",
        "+0..5400/360 kw=17 ph=1 A=50 V=200",
        "",
        "",
        "charge_energy_used=25.5",
    ),
    Case(
        "a quarter off a whole number: that number",
        "+0..5400/360 kw=11 ph=1 A=20 V=200",
        "",
        "",
        "charge_energy_used=18",
    ),
    Case(
        "0.3 below a whole number still counts",
        "+0..5400/360 kw=27 ph=1 A=50 V=200",
        "",
        "",
        "charge_energy_used=45",
    ),
    Case(
        "0.3 above a whole number still counts",
        "+0..5400/360 kw=23 ph=1 A=50 V=200",
        "",
        "",
        "charge_energy_used=30",
    ),
    Case("0.4 off a whole number: undetermined", "+0..5400/360 kw=26 ph=1 A=50 V=200", "", "", "charge_energy_used=39"),
    Case("p = 2.5 is 3, not the even 2", "+0..5400/360 kw=25 ph=3 A=50 V=200", "", "", "charge_energy_used=45"),
    Case(
        "no power: no phases, whatever the current",
        "+0..5400/360 kw=0 ph=1 A=16 V=230",
        "",
        "",
        "charge_energy_used=0",
    ),
    Case("negative power: no phases", "+0..5400/360 kw=-3 ph=1 A=16 V=230", "", "", "charge_energy_used=null"),
    Case("p = 0.3 is no phase", "+0..5400/360 kw=3 ph=1 A=50 V=200", "", "", "charge_energy_used=4.5"),
    Case(
        "a mean of 1.5 phases is 2",
        "+0..2520/360 kw=24 ph=1 A=50 V=200 | +2880..5400/360 kw=24 ph=2 A=50 V=200",
        "",
        "",
        "charge_energy_used=30",
    ),
    Case(
        "p is a mean of ratios: 1.5, where the ratio of means is 1.02",
        "+0..2520/360 kw=2 ph=1 A=5 V=200 | +2880..5400/360 kw=40 ph=1 A=200 V=200",
        "",
        "",
        "charge_energy_used=33.4",
    ),
    Case(
        "p is weighed by readings, not by time",
        "+0..10/1 kw=20 ph=2 A=50 V=200 | +360..2160/360 kw=24 ph=2 A=50 V=200 ",
        "",
        "",
        "charge_energy_used=12",
    ),
    Case(
        "readings without a current have no ratio, but are counted",
        "+0..2520/360 kw=11 ph=3 A=0 V=230 | +2880..5400/360 kw=11 ph=3 A=16 V=230",
        "",
        "",
        "charge_energy_used=8.83",
    ),
    Case(
        "a missing current: the charger's power",
        "+0..2520/360 kw=11 ph=3 V=230 | +2880..5400/360 kw=11 ph=3 A=16 V=230",
        "",
        "",
        "charge_energy_used=16.53",
    ),
    Case(
        "a missing voltage: the charger's power",
        "+0..2520/360 kw=11 ph=3 A=16 | +2880..5400/360 kw=11 ph=3 A=16 V=230",
        "",
        "",
        "charge_energy_used=16.53",
    ),
    Case(
        "a voltage of 0 has no ratio",
        "+0..2520/360 kw=11 ph=3 A=16 V=0 | +2880..5400/360 kw=11 ph=3 A=16 V=230",
        "",
        "",
        "charge_energy_used=8.83",
    ),
    Case("no ratio at all: undetermined", "+0..5400/360 kw=11 ph=3", "", "", "charge_energy_used=16.5"),
    Case(
        "readings without a phase count take part in p, and keep their own power",
        "+0..5040/360 kw=11 A=16 V=230 | +5400 kw=11 ph=3 A=55 V=200",
        "",
        "",
        "charge_energy_used=18.7",
    ),
    Case(
        "no phase count anywhere: the charger's power",
        "+0..5400/360 kw=120 A=16 V=230",
        "",
        "",
        "charge_energy_used=180",
    ),
    Case(
        "200 A at 400 V are more than a smallint",
        "+0..5400/360 kw=90 ph=1 A=200 V=400",
        "",
        "",
        "charge_energy_used=120",
    ),
    Case(
        "32767 A at 32767 V fit into 32 bits",
        "+0..5400/360 kw=10 ph=1 A=32767 V=32767",
        "",
        "",
        "charge_energy_used=15",
    ),
    // Cost: free.
    Case("a Tesla charger is free for car 2", "+0 | +60 kw=9 type=Tesla", "car_id=2 cost=5", "", "cost=0"),
    Case("free with a fence too", "+0 | +3600 kw=9 type=Tesla", "car_id=2", "per_kwh price=1 fee=1", "cost=0"),
    Case(
        "free even per minute without a price",
        "+0 | +3600 kw=9 type=Tesla",
        "car_id=2",
        "per_minute fee=1",
        "cost=0",
    ),
    Case("every type that begins with Tesla", "+0 | +3600 kw=9 type=TeslaV4", "car_id=2", "per_kwh price=1", "cost=0"),
    Case("upper and lower case matter", "+0 | +3600 kw=9 type=tesla", "car_id=2", "per_kwh price=1", "cost=9"),
    Case(
        "Tesla elsewhere in the type does not count",
        "+0 | +3600 kw=9 type=MCTesla",
        "car_id=2",
        "per_kwh price=1",
        "cost=9",
    ),
    Case("car 1 pays at a Tesla charger", "+0 | +3600 kw=9 type=Tesla", "car_id=1", "per_kwh price=1", "cost=9"),
    Case("car 2 pays elsewhere", "+0 | +3600 kw=9 type=CCS", "car_id=2", "per_kwh price=1", "cost=9"),
    Case("no type, no gift", "+0 | +3600 kw=9", "car_id=2", "per_kwh price=1", "cost=9"),
    Case(
        "the most frequent type decides: Tesla",
        "+0 kw=1 type=CCS | +9 kw=1 type=Tesla | +3600 kw=9 type=Tesla",
        "car_id=2",
        "per_kwh price=1",
        "cost=0",
    ),
    Case(
        "the most frequent type decides: not Tesla",
        "+0 kw=0 | +9 kw=1 type=Tesla | +10 kw=1 type=CCS | +11 kw=0 type=Tesla | +3600 kw=0 type=Tesla | +3601 kw=2 type=CCS",
        "car_id=2",
        "per_minute price=1",
        "cost=60",
    ),
    Case(
        "missing types do not count",
        "+0 kw=1 | +9 kw=1 | +12 kw=1 | +3600 kw=9 type=Tesla",
        "car_id=2",
        "per_kwh price=1",
        "cost=0",
    ),
    Case(
        "types without power do not count",
        "+0 type=CCS | +9 type=CCS | +12 type=CCS | +3600 kw=9 type=Tesla",
        "car_id=2",
        "per_kwh price=1",
        "cost=0",
    ),
    Case(
        "a type of negative power does not count",
        "+0 | +9 kw=-1 type=Tesla",
        "car_id=2",
        "per_minute price=1",
        "cost=0 duration_min=0",
    ),
    // Cost: the stored fence.
    Case("the fence is not looked up again", "+0 | +3600 kw=10", "cost=12.5", "", "cost=null geofence_id=null"),
    Case("per kWh: used is the larger", "+0 a=0 | +3600 a=9.5 kw=10", "", "per_kwh price=0.3", "cost=3"),
    Case("per kWh: added is the larger", "+0 a=0 | +3600 a=12 kw=10", "", "per_kwh price=0.3", "cost=3.6"),
    Case(
        "per kWh: used counts unrounded, 0.005 kWh",
        "+0 | +18 kw=1",
        "",
        "per_kwh price=100",
        "charge_energy_used=0.01 cost=0.5",
    ),
    Case("per kWh with a session fee", "+0 | +3600 kw=10", "", "per_kwh price=0.3 fee=1.5", "cost=4.5"),
    Case(
        "per kWh: used is unknown, added decides",
        "+0 | +3600 a=4 kw=-1",
        "",
        "per_kwh price=0.5",
        "charge_energy_used=null cost=2",
    ),
    Case(
        "per kWh: added is unknown, used decides",
        "+0 a=5 | +3600 a=3 kw=10",
        "",
        "per_kwh price=0.5",
        "charge_energy_added=null cost=5",
    ),
    Case(
        "per kWh: both unknown, no cost even with a fee",
        "+0 a=5 | +3600 a=3 kw=-1",
        "cost=9",
        "per_kwh price=0.5 fee=2",
        "cost=null",
    ),
    Case("per kWh: nothing charged costs nothing", "+0 | +3600", "", "per_kwh price=0.5", "cost=0"),
    Case("per kWh without a price: the fee alone", "+0 | +3600 kw=10", "", "per_kwh fee=2", "cost=2"),
    Case("per kWh without price and fee: no cost", "+0 | +3600 kw=10", "cost=9", "per_kwh", "cost=null"),
    Case("per kWh: a price of 0", "+0 | +3600 kw=10", "", "per_kwh price=0", "cost=0"),
    Case("per kWh: a negative price", "+0 | +3600 kw=10", "", "per_kwh price=-0.1 fee=0.25", "cost=-0.75"),
    Case("per kWh: half a cent rounds up", "+0 | +1800 kw=1", "", "per_kwh price=0.01", "cost=0.01"),
    Case(
        "per kWh: half a cent of refund rounds away from zero",
        "+0 | +1800 kw=1",
        "",
        "per_kwh price=-0.01",
        "cost=-0.01",
    ),
    Case("per minute", "+0 | +3600", "", "per_minute price=0.05 fee=1", "cost=4"),
    Case("per minute without a fee", "+0 | +3600", "", "per_minute price=0.05", "cost=3"),
    Case("per minute goes by the rounded minutes", "+0 | +30", "", "per_minute price=0.5", "cost=0.5"),
    Case(
        "per minute needs no energy",
        "+0 a=5 | +3600 a=3 kw=-1",
        "",
        "per_minute price=0.1",
        "charge_energy_added=null charge_energy_used=null cost=6",
    ),
    Case("per minute at a price of 0", "+0 | +3600", "", "per_minute price=0", "cost=0"),
    Case("per minute at a negative price", "+0 | +3600", "", "per_minute price=-0.1 fee=1", "cost=-5"),
];

/// Charges that cannot be completed, with the words of the refusal.
const REFUSED: &[Case] = &[
    Case("per minute without a price", "+0 | +3600 kw=10", "", "per_minute fee=2", "no price"),
    Case("32768 minutes do not fit", "+0 | +1966080", "", "", "32768 minutes"),
    Case("a million kWh do not fit", "+0 | +111600 kw=32767", "", "", "charge_energy_used of 1015777"),
    Case(
        "a cost of a trillion does not fit",
        "+0 | +3600",
        "",
        "per_minute price=1 fee=999999999999.99",
        "cost of 1000000000059.99",
    ),
];

const FIRST: i32 = 1001;

fn id_of(at: usize) -> i32 {
    FIRST + i32::try_from(at).expect("few cases")
}

fn database(hint: &str, cases: &[Case]) -> (&'static Server, String, Site) {
    let server = Server::shared();
    let database = server.teslamate(hint);
    let mut sql = String::new();
    for (at, Case(_, readings, before, tariff, _)) in cases.iter().enumerate() {
        let id = id_of(at);
        let mut fence = "NULL".to_owned();
        if let Some((billing, rest)) = tariff.split_once(' ').or((!tariff.is_empty()).then_some((*tariff, ""))) {
            let value = |name: &str| {
                rest.split_whitespace().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or("NULL")
            };
            let (price, fee) = (value("price"), value("fee"));
            let _ = writeln!(
                sql,
                "INSERT INTO geofences (id, name, latitude, longitude, radius, inserted_at, updated_at, billing_type, \
                 cost_per_unit, session_fee) VALUES ({id}, 'f', 0, 0, 1, now(), now(), '{billing}', {price}, {fee});"
            );
            fence = id.to_string();
        }
        let _ = writeln!(
            sql,
            "INSERT INTO charging_processes (id, start_date, car_id, position_id, geofence_id) \
             VALUES ({id}, {}, 1, 1, {fence});",
            time(-60.0)
        );
        for (column, value) in assignments(before) {
            let _ = writeln!(sql, "UPDATE charging_processes SET {column} = {value} WHERE id = {id};");
        }
        sql += &insert(&READINGS, id, readings);
    }
    run_sql(server, &database, &sql);
    let site = Site::new(server, &database);
    (server, database, site)
}

#[test]
fn charges_are_completed_as_the_application_completes_them() {
    let (server, database, site) = database("close_charge", COMPLETED);
    let at_home = "SELECT earth_box(ll_to_earth(g.latitude, g.longitude), g.radius) @> ll_to_earth(p.latitude, p.longitude) \
                   FROM geofences g, positions p WHERE g.id = 1 AND p.id = 1 AND g.cost_per_unit > 0";
    assert_eq!(server.query(&database, at_home), "t", "the charges were to stand in a fence with a price");
    let ids: Vec<String> = (0..COMPLETED.len()).map(|at| id_of(at).to_string()).collect();
    let mut arguments = vec!["--via", "sql", "--json"];
    arguments.extend(ids.iter().map(String::as_str));
    let before = rows(server, &database, "charging_processes");
    let readings = server.content(&database)["public.charges"].clone();
    let closed = site.run("teslamate-close-charge", &arguments).expect(0);

    let after = rows(server, &database, "charging_processes");
    let mut failures = Vec::new();
    for (at, Case(name, lines, columns, tariff, expected)) in COMPLETED.iter().enumerate() {
        let id = id_of(at);
        let mut wrong = differences(id, expected, &after[&id]);
        for column in ["geofence_id", "address_id", "position_id", "car_id"] {
            if before[&id][column] != after[&id][column] {
                wrong.push(format!("{column} has changed"));
            }
        }
        let result = &closed.json()["results"][at];
        let word = if columns.contains("end_date=") { "recomputed" } else { "closed" };
        if result["status"] != word {
            wrong.push(format!("reported as {result}, not as {word}"));
        }
        if columns.contains("cost=") && !result["notes"].to_string().contains("the cost of") {
            wrong.push(format!("the cost that was there is not mentioned: {result}"));
        }
        if lines.is_empty() && !ends_now(server, &database, id) {
            wrong.push(format!("ends at {}, which is not now", after[&id]["end_date"]));
        }
        failures.extend(wrong.iter().map(|wrong| format!("{name} ({tariff}): {wrong}")));
    }
    for (id, row) in before.iter().filter(|(id, _)| **id < FIRST) {
        if after[id] != *row {
            failures.push(format!("charge {id} was not to be touched"));
        }
    }
    verdict("charges", COMPLETED.len(), &failures);
    assert_eq!(server.content(&database)["public.charges"], readings, "the readings stay");
}

fn ends_now(server: &Server, database: &str, id: i32) -> bool {
    let sql = format!(
        "SELECT abs(extract(epoch FROM now() AT TIME ZONE 'UTC' - end_date)) < 60 FROM charging_processes WHERE id = {id}"
    );
    server.query(database, &sql) == "t"
}

#[test]
fn a_charge_without_readings_ends_now_even_if_an_end_was_set() {
    let (server, database, site) =
        database("empty_charge", &[Case("", "", "end_date=+600", "", ""), Case("", "", "", "", "")]);
    let outcome = site.run("teslamate-close-charge", &["--via", "sql", "1001", "1002"]).expect(0);
    assert!(ends_now(server, &database, 1001) && ends_now(server, &database, 1002));
    assert!(outcome.text().contains("it has no readings"), "{}", outcome.text());
}

#[test]
fn charges_that_cannot_be_completed_are_refused_with_the_reason() {
    let (server, database, site) = database("charge_refused", REFUSED);
    let before = server.content(&database);
    for (at, Case(name, _, _, _, words)) in REFUSED.iter().enumerate() {
        for way in ["--dry-run", "--via=sql"] {
            let outcome = site.run("teslamate-close-charge", &[way, &id_of(at).to_string()]);
            assert!(outcome.stderr.contains(words), "{name}: {}", outcome.stderr);
            outcome.expect(10).says("nothing was changed");
        }
    }
    assert_eq!(server.content(&database), before);
}

/// The efficiency of a car: its name, charges that are completed already (`added range level minutes` and how often),
/// the one that is closed (readings), the preferred range, what the car had, and what it has afterwards.
struct Efficiency(&'static str, &'static [(&'static str, u32)], &'static str, &'static str, &'static str, &'static str);

/// 15 kWh for 100 km, 0.15 kWh/km, within 20 minutes.
const LAST: &str = "+0 a=0 i=300 r=200 l=40 | +1200 a=15 i=500 r=300 l=80";

const EFFICIENCIES: &[Efficiency] = &[
    Efficiency("eight agree to five decimals, this one included", &[("15 100 80 20", 7)], LAST, "rated", "0.1", "0.15"),
    Efficiency(
        "seven agree to five decimals, which is too few, and to four",
        &[("15 100 80 20", 4), ("15 99.99 80 20", 2)],
        LAST,
        "rated",
        "0.1",
        "0.15",
    ),
    Efficiency(
        "eight at five decimals go before more at four",
        &[("15 99.99 80 20", 8), ("15 99.98 80 20", 3)],
        LAST,
        "rated",
        "0.1",
        "0.15002",
    ),
    Efficiency("seven at five decimals are too few", &[("15 99.99 80 20", 7)], LAST, "rated", "0.1", "0.15"),
    Efficiency("five agree to four decimals", &[("15.04 100 80 20", 5)], LAST, "rated", "0.1", "0.1504"),
    Efficiency("four at four decimals are too few", &[("15.04 100 80 20", 4)], LAST, "rated", "0.1", "0.15"),
    Efficiency("three agree to three decimals", &[("15.4 100 80 20", 3)], LAST, "rated", "0.1", "0.154"),
    Efficiency("two at three decimals are too few", &[("15.4 100 80 20", 2)], LAST, "rated", "0.1", "0.15"),
    Efficiency(
        "three agree to three decimals: .1504, .1496 and .15",
        &[("15.04 100 80 20", 1), ("14.96 100 80 20", 1)],
        LAST,
        "rated",
        "0.1",
        "0.15",
    ),
    Efficiency("two agree to two decimals: .153 and .15", &[("15.3 100 80 20", 1)], LAST, "rated", "0.1", "0.15"),
    Efficiency("one is none", &[], LAST, "rated", "0.1", "0.1"),
    Efficiency("two that do not agree are none", &[("17 100 80 20", 1)], LAST, "rated", "0.1", "0.1"),
    Efficiency(
        "the preferred range is ideal, 200 km here: .075, and .08 at two decimals",
        &[("15 100 80 20", 1), ("15 200 80 20", 1)],
        LAST,
        "ideal",
        "0.1",
        "0.08",
    ),
    Efficiency("11 minutes are long enough", &[("15 100 80 11", 1)], LAST, "rated", "0.1", "0.15"),
    Efficiency("10 minutes are not", &[("15 100 80 10", 1)], LAST, "rated", "0.1", "0.1"),
    Efficiency("95 percent at the end count", &[("15 100 95 20", 1)], LAST, "rated", "0.1", "0.15"),
    Efficiency("96 percent do not", &[("15 100 96 20", 1)], LAST, "rated", "0.1", "0.1"),
    Efficiency("an unknown level does not", &[("15 100 NULL 20", 1)], LAST, "rated", "0.1", "0.1"),
    Efficiency(
        "nothing added does not count, not even as the largest group",
        &[("0 100 80 20", 5), ("15 100 80 20", 1)],
        LAST,
        "rated",
        "0.1",
        "0.15",
    ),
    Efficiency("an unknown range does not count", &[("15 NULL 80 20", 5)], LAST, "rated", "0.1", "0.1"),
    Efficiency(
        "charges without a factor may be the largest group: then there is none",
        &[("15 0 80 20", 3), ("15 100 80 20", 1)],
        LAST,
        "rated",
        "0.1",
        "0.1",
    ),
    Efficiency("a negative factor is none", &[("15 -50 80 20", 3), ("15 100 80 20", 1)], LAST, "rated", "0.1", "0.1"),
    Efficiency(
        "only the largest group is looked at",
        &[("15 -50 80 20", 2), ("30 100 80 20", 4)],
        LAST,
        "rated",
        "0.1",
        "0.3",
    ),
    Efficiency("this one has no readings, the others decide", &[("15 100 80 20", 2)], "", "rated", "0.1", "0.15"),
    Efficiency(
        "this one has become too short to count",
        &[("15 100 80 20", 1)],
        "+0 a=0 r=200 l=40 | +600 a=15 r=300 l=80",
        "rated",
        "0.1",
        "0.1",
    ),
    Efficiency("the factor is the same: nothing is written", &[("15 100 80 20", 7)], LAST, "rated", "0.15", "0.15"),
    Efficiency("there was none before", &[("15 100 80 20", 7)], LAST, "rated", "NULL", "0.15"),
];

#[test]
fn completing_a_charge_derives_the_efficiency_of_its_car() {
    let server = Server::shared();
    let database = server.teslamate("efficiency");
    let mut sql = String::new();
    for (at, Efficiency(_, others, readings, _, had, _)) in EFFICIENCIES.iter().enumerate() {
        let (car, id) = (100 + at, id_of(at));
        let _ = writeln!(
            sql,
            "INSERT INTO car_settings (id) VALUES ({car}); \
             INSERT INTO cars (id, eid, vid, vin, settings_id, efficiency, inserted_at, updated_at) \
             VALUES ({car}, {car}, {car}, '{car}', {car}, {had}, '2020-01-01', '2020-01-01'); \
             INSERT INTO charging_processes (id, start_date, car_id, position_id) VALUES ({id}, {}, {car}, 1);",
            time(0.0)
        );
        for (values, count) in *others {
            let mut words = values.split(' ');
            let mut word = || words.next().unwrap();
            let (added, range, level, minutes) = (word(), word(), word(), word());
            let _ = writeln!(
                sql,
                "INSERT INTO charging_processes (start_date, car_id, position_id, charge_energy_added, \
                 start_rated_range_km, end_rated_range_km, start_ideal_range_km, end_ideal_range_km, end_battery_level, \
                 duration_min) SELECT {}, {car}, 1, {added}, 200, 200 + {range}, 300, 300 + {range}, {level}, {minutes} \
                 FROM generate_series(1, {count});",
                time(0.0)
            );
        }
        sql += &insert(&READINGS, id, readings);
    }
    run_sql(server, &database, &sql);
    let site = Site::new(server, &database);
    let mut results = std::collections::BTreeMap::new();
    for range in ["rated", "ideal"] {
        server.query(&database, &format!("UPDATE settings SET preferred_range = '{range}'"));
        let chosen = EFFICIENCIES.iter().enumerate().filter(|(_, case)| case.3 == range);
        let ids: Vec<String> = chosen.map(|(at, _)| id_of(at).to_string()).collect();
        let mut arguments = vec!["--via", "sql", "--json"];
        arguments.extend(ids.iter().map(String::as_str));
        let outcome = site.run("teslamate-close-charge", &arguments).expect(0);
        for result in outcome.json()["results"].as_array().unwrap() {
            results.insert(result["id"].as_i64().unwrap(), result.clone());
        }
    }

    let cars = rows(server, &database, "cars");
    let mut failures = Vec::new();
    for (at, Efficiency(name, _, _, _, had, expected)) in EFFICIENCIES.iter().enumerate() {
        let car = &cars[&(100 + i32::try_from(at).unwrap())];
        let mut wrong = differences(0, &format!("efficiency={expected}"), car);
        let written = had != expected;
        let fresh = !car["updated_at"].starts_with("2020");
        if written != fresh {
            wrong.push(format!("updated_at is {}", car["updated_at"]));
        }
        let reported = &results[&i64::from(id_of(at))]["changes"]["cars.efficiency"];
        if written == reported.is_null() {
            wrong.push(format!("reported as {reported}"));
        }
        failures.extend(wrong.iter().map(|wrong| format!("{name}: {wrong}")));
    }
    verdict("efficiencies", EFFICIENCIES.len(), &failures);
}

#[test]
fn a_dry_run_shows_every_column_and_changes_nothing() {
    let cases = &[Case("", "+0 a=0 kw=6 l=50 | +3600 a=5 kw=6 l=60", "cost=12.5 duration_min=60", "", "")];
    let (server, database, site) = database("dry_charge", cases);
    let before = server.content(&database);
    let outcome = site.run("teslamate-close-charge", &["--dry-run", "1001"]).expect(0);
    for words in ["would be closed", "end_date", "2024-05-01 09:00:00 *", "12.50", "null *", "typed in", "dry run"] {
        assert!(outcome.text().contains(words), "not said: {words}\n{}", outcome.text());
    }
    let outcome = site.run("teslamate-close-charge", &["--dry-run", "--json", "1001"]).expect(0);
    let result = &outcome.json()["results"][0];
    assert_eq!(result["status"], "would_close");
    assert_eq!(result["changes"]["cost"], serde_json::json!([12.5, null]));
    assert!(result["changes"].get("duration_min").is_none(), "{result}");
    assert_eq!(result["columns"]["duration_min"], serde_json::json!([60, 60]));
    assert_eq!(result["columns"]["end_date"], serde_json::json!([null, "2024-05-01 09:00:00"]));
    assert_eq!(server.content(&database), before);
}
